from __future__ import annotations

import itertools
import pickle
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import DAG

from splashify_provider import retry_policy
from splashify_provider.exceptions import (
    AgentNotFoundError,
    RateLimitError,
    ServerError,
    SplashifyConnectionError,
)
from splashify_provider.operators.splashify import (
    SplashifyAssignOperator,
    SplashifyBulkAssignOperator,
    SplashifyReleaseOperator,
)
from splashify_provider.retry_policy import DEFAULT_RETRY_POLICY, spread

needs_policies = pytest.mark.skipif(DEFAULT_RETRY_POLICY is None, reason="Airflow has retry policies since 3.3")
OPERATORS = {
    SplashifyAssignOperator: {"user_phone_number": "+12025550101", "agent_email": "ada@example.com"},
    SplashifyReleaseOperator: {"user_phone_number": "+12025550101"},
    SplashifyBulkAssignOperator: {"assignments": []},
}


def instance(map_index=-1, run_id="r"):
    return SimpleNamespace(dag_id="d", run_id=run_id, task_id="t", map_index=map_index)


def evaluate(error, ti=None, try_number=1):
    return DEFAULT_RETRY_POLICY.evaluate(error, try_number, 3, {"ti": ti or instance()})


@needs_policies
class TestDecisions:
    @pytest.mark.parametrize("error", [RateLimitError(429, "Limited.", 90.0), ServerError(503, "Down.", 90.0)])
    def test_what_the_server_asks_is_the_least_delay_and_its_words_the_reason(self, error):
        decision = evaluate(error)
        assert decision.action.name == "RETRY"
        assert timedelta(seconds=90) <= decision.retry_delay <= timedelta(seconds=95)
        assert decision.reason == f"The next try is in {decision.retry_delay.total_seconds():.0f} s. {error.reason}"

    @pytest.mark.parametrize("error", [SplashifyConnectionError("Away."), ServerError(503, "Away.")])
    def test_what_says_nothing_of_a_wait_keeps_the_tasks_own_delay_but_mapped_tasks_apart(self, error):
        delays = []
        for index in range(30):
            ti = instance(index)
            ti.task = SplashifyReleaseOperator(
                task_id="t", user_phone_number="+12025550101", retry_delay=timedelta(seconds=30)
            )
            delays.append(evaluate(error, ti).retry_delay.total_seconds())
        delays.sort()
        assert 30 <= delays[0]
        assert delays[-1] < 90
        assert all(later - delay > 0.5 for delay, later in itertools.pairwise(delays))

    def test_errors_of_others_are_left_to_airflow(self):
        assert evaluate(ValueError("x")).action.name == "DEFAULT"

    @pytest.mark.parametrize("asked", [None, 0.0])
    def test_mapped_tasks_that_were_limited_come_back_apart_and_after_the_window_if_no_wait_is_said(self, asked):
        decisions = [evaluate(RateLimitError(429, "Limited.", asked), instance(index)) for index in range(30)]
        delays = sorted(decision.retry_delay.total_seconds() for decision in decisions)
        assert 60 <= delays[0]
        assert delays[-1] < 120
        assert all(later - delay > 0.5 for delay, later in itertools.pairwise(delays))
        assert all(decision.reason.endswith(" s. Limited.") for decision in decisions)

    @pytest.mark.parametrize(
        ("own", "try_number", "least"),
        [
            ({"retry_delay": timedelta(seconds=1)}, 1, 60),
            ({"retry_delay": timedelta(minutes=5)}, 3, 300),
            ({"retry_delay": timedelta(minutes=5), "retry_exponential_backoff": 2.0}, 1, 300),
            ({"retry_delay": timedelta(minutes=5), "retry_exponential_backoff": 2.0}, 3, 1200),
            ({"retry_delay": timedelta(minutes=5), "retry_exponential_backoff": 3.0}, 3, 2700),
            (
                {
                    "retry_delay": timedelta(minutes=5),
                    "retry_exponential_backoff": 2.0,
                    "max_retry_delay": timedelta(minutes=9),
                },
                3,
                540,
            ),
            ({"retry_delay": timedelta(minutes=5), "retry_exponential_backoff": 1e6}, 5000, 86_400),
        ],
    )
    def test_limited_without_a_wait_the_tasks_own_delay_is_the_least_and_grows_as_it_asks(self, own, try_number, least):
        ti = instance()
        ti.task = SplashifyReleaseOperator(task_id="t", user_phone_number="+12025550101", **own)
        delay = evaluate(RateLimitError(429, "x"), ti, try_number).retry_delay
        assert timedelta(seconds=least) <= delay < timedelta(seconds=least + 5)

    def test_a_permanent_error_fails_at_once(self):
        decision = evaluate(AgentNotFoundError(400, "Agent not found: add them."))
        assert decision.action.name == "FAIL"
        assert decision.reason == "Agent not found: add them."

    def test_it_works_without_a_context_and_bounds_an_absurd_wait(self):
        decision = DEFAULT_RETRY_POLICY.evaluate(RateLimitError(429, "x", 1e12), 1, 3)
        assert timedelta(days=1) <= decision.retry_delay < timedelta(days=1, minutes=1)

    def test_it_survives_the_way_to_the_worker(self):
        assert type(pickle.loads(pickle.dumps(DEFAULT_RETRY_POLICY))) is type(DEFAULT_RETRY_POLICY)


class TestSpread:
    @pytest.mark.parametrize("size", [2, 7, 60, 200])
    def test_mapped_tasks_that_were_limited_together_come_back_spread_over_a_window(self, size):
        delays = sorted(spread(instance(index), 1) for index in range(size))
        assert 0 <= delays[0]
        assert delays[-1] < 60
        fullest = max(sum(start <= delay < start + 6 for delay in delays) for start in delays)
        assert fullest <= max(1, round(size * 0.1) + 2)  # a tenth of the window holds about a tenth of them

    def test_a_single_task_comes_back_within_seconds_and_not_with_another_run(self):
        assert 0 <= spread(instance(), 1) < 5
        assert spread(instance(run_id="r"), 1) != spread(instance(run_id="s"), 1)
        assert spread(instance(), 1) != spread(instance(), 2)


class TestDefault:
    @needs_policies
    @pytest.mark.parametrize("operator", OPERATORS)
    def test_the_operators_bring_it_plain_and_mapped(self, operator):
        with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)):
            plain = operator(task_id="plain", **OPERATORS[operator])
            (name, value), *others = OPERATORS[operator].items()
            mapped = operator.partial(task_id="mapped", **dict(others)).expand(**{name: [value]})
        assert plain.retry_policy is DEFAULT_RETRY_POLICY
        assert mapped.partial_kwargs["retry_policy"] is DEFAULT_RETRY_POLICY

    @needs_policies
    @pytest.mark.parametrize("operator", OPERATORS)
    def test_it_can_be_replaced_and_left_out(self, operator):
        own = retry_policy.SplashifyRetryPolicy()
        assert operator(task_id="t", retry_policy=own, **OPERATORS[operator]).retry_policy is own
        assert operator(task_id="t", retry_policy=None, **OPERATORS[operator]).retry_policy is None

    @pytest.mark.skipif(DEFAULT_RETRY_POLICY is not None, reason="there are policies")
    @pytest.mark.parametrize("operator", OPERATORS)
    def test_older_airflows_do_without(self, operator):
        assert operator(task_id="t", **OPERATORS[operator]).task_id == "t"
