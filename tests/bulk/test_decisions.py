"""What a batch does next, and when it stops: without threads, and on a clock that is given."""

from __future__ import annotations

from collections import Counter

import pytest

from splashify_provider.bulk.assignment import AssignmentOutcome
from splashify_provider.exceptions import (
    AgentInactiveError,
    AgentNotFoundError,
    AuthenticationError,
    BadRequestError,
    ConversationNotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    SplashifyConfigurationError,
    SplashifyConnectionError,
)
from tests.bulk.simulation import Key, Simulation, assignments
from tests.conftest import ADA, BEN, counts

GOOD = "assigned"
DOWN = ServerError(500, "down\nwait")
LOST = SplashifyConnectionError("reset")
REVOKED = AuthenticationError(401, "revoked\nrenew it")
BLOCKED = PermissionDeniedError(403, "blocked", None)
NO_PAGE = BadRequestError(404, "no such page")
BAD = BadRequestError(400, "bad")
CLOSED = ConversationNotFoundError(400, "closed")
UNKNOWN = AgentNotFoundError(400, "unknown")
INACTIVE = AgentInactiveError(400, "inactive")
LATER = RateLimitError(429, "later")
MUCH_LATER = RateLimitError(429, "much later", 600.0)


def answering(*answers, then=GOOD, **limits):
    """Give a batch whose rows are answered like this, always the same for one row; with one at a time."""
    by_position = dict(enumerate(answers, 1))

    def answer(item, _):
        result = by_position.get(item.position, then)
        if isinstance(result, list):
            result = result.pop(0)
        if isinstance(result, str):
            return result
        raise result

    return Simulation(answer, **{"max_in_flight": 1, **limits})


class TestOutcomes:
    @pytest.mark.parametrize(
        ("answer", "outcome", "requests"),
        [
            (GOOD, "assigned", 1),
            (CLOSED, "conversation_not_found", 1),
            (BAD, "rejected", 1),
            (NO_PAGE, "rejected", 1),
            (DOWN, "failed", 3),
            (LOST, "failed", 3),
            ([DOWN, LOST, GOOD], "assigned", 3),
            ([LATER] * 9 + [GOOD], "assigned", 10),
            ([LATER, DOWN, LATER, DOWN, LATER, GOOD], "assigned", 6),
        ],
    )
    def test_every_row_has_its_own_and_transient_errors_some_attempts(self, answer, outcome, requests):
        batch = answering(answer)
        assert counts(batch.run(assignments(1, 2))) == Counter([outcome, "assigned"])
        assert len(batch.sent) == requests + 1

    def test_attempts_are_further_and_further_apart(self):
        batch = answering([DOWN, DOWN, GOOD], latency=0.0)
        batch.run(assignments(1))
        first, second, third = batch.sent_at
        assert 1 <= second - first <= 2.1
        assert 2 <= third - second <= 3.1

    def test_a_wait_that_the_server_asks_for_is_kept(self):
        batch = answering([ServerError(503, "busy", 30.0), GOOD])
        batch.run(assignments(1))
        assert batch.sent_at[1] - batch.sent_at[0] > 30

    def test_a_row_that_is_tried_again_holds_up_nobody_else(self):
        batch = answering([DOWN, DOWN, GOOD], max_in_flight=4)
        outcomes = batch.run(assignments(*range(50)))
        assert outcomes[-1].position == 1
        assert len(outcomes) == 50

    @pytest.mark.parametrize("answer", [SplashifyConfigurationError("wrong"), ZeroDivisionError()])
    def test_what_is_no_answer_of_splashifys_is_raised(self, answer):
        with pytest.raises(type(answer)):
            answering(GOOD, answer).run(assignments(1, 2, 3))


class TestOrder:
    def test_the_second_row_of_a_number_waits_for_the_first_whatever_becomes_of_it(self):
        rows = [*assignments(1), *(row for row in assignments(9, 9, 1, 2, agent=BEN)[2:])]
        batch = answering([DOWN, LATER, DOWN, GOOD], max_in_flight=8)
        outcomes = batch.run(rows)
        assert [outcome.position for outcome in outcomes] == [1, 3, 4]
        assert [position for _, position in batch.sent] == [1, 1, 1, 1, 3, 4]

    def test_rows_that_failed_their_check_pass_through(self):
        invalid = AssignmentOutcome(2, "12", ADA, "invalid", "too short")
        first, _, third = assignments(1, 2, 3)
        assert counts(answering().run([first, invalid, third])) == {"assigned": 2, "invalid": 1}
        assert counts(answering(REVOKED).run([first, invalid, third])) == {
            "rejected": 1,
            "invalid": 1,
            "not_attempted": 1,
        }


class TestInFlight:
    @pytest.mark.parametrize("most", [1, 3, 64])
    def test_no_more_are_under_way_than_said(self, most):
        batch = answering([DOWN, GOOD], [LOST, GOOD], max_in_flight=most)
        assert counts(batch.run(assignments(*range(3000)))) == {"assigned": 3000}
        assert batch.most_in_flight == most

    def test_latency_does_not_set_the_speed(self):
        batch = answering(max_in_flight=16)
        started = batch.now
        batch.run(assignments(*range(161)))
        assert batch.now - started == pytest.approx(0.1 + 1.0)  # the agent's first one goes alone


class TestStopping:
    @pytest.mark.parametrize(
        ("answers", "stopped_after", "by"),
        [
            ([GOOD, REVOKED], 2, AuthenticationError),  # a refused key: at once
            ([BLOCKED], 1, PermissionDeniedError),
            ([GOOD, MUCH_LATER], 2, RateLimitError),  # left to Airflow
            ([DOWN, DOWN, DOWN], 3, ServerError),  # max_consecutive_failures
            ([DOWN, LOST, NO_PAGE], 3, BadRequestError),
            ([DOWN, GOOD, DOWN, DOWN, GOOD, DOWN, DOWN, DOWN], 8, ServerError),
            ([DOWN, DOWN, GOOD] * 6, None, None),  # not in a row
            *(([DOWN, DOWN, fine] * 6, None, None) for fine in (BAD, CLOSED, UNKNOWN, INACTIVE)),
            *(([fine] * 18, None, None) for fine in (BAD, CLOSED, UNKNOWN, INACTIVE)),
        ],
    )
    def test_when_and_by_what(self, answers, stopped_after, by):
        outcomes = answering(*answers, max_attempts=1, max_consecutive_failures=3).run(assignments(*range(20)))
        assert [outcome.position for outcome in outcomes] == list(range(1, 21))
        stopped = [outcome for outcome in outcomes if outcome.stopped_by]
        if by is None:
            assert not stopped
            return
        assert [outcome.position for outcome in stopped] == list(range(stopped_after, 21))
        assert {type(outcome.stopped_by) for outcome in stopped} == {by}
        assert {outcome.outcome for outcome in stopped[1:]} == {"not_attempted"}
        assert f"stopped at position {stopped_after} ({by.__name__})" in stopped[-1].message

    def test_failures_in_a_row_are_counted_in_the_error_and_its_remedy_stays(self):
        outcomes = answering(DOWN, DOWN, max_attempts=1, max_consecutive_failures=2).run(assignments(1, 2, 3))
        reason = outcomes[-1].stopped_by.reason
        assert reason == "2 failures in a row (max_consecutive_failures=2). The last: down"
        assert outcomes[-1].stopped_by.remedy == "wait"

    @pytest.mark.parametrize(("second", "by"), [(REVOKED, AuthenticationError), (NO_PAGE, ServerError)])
    def test_a_refused_key_and_nothing_else_outweighs_what_stopped_it_before(self, second, by):
        outcomes = answering(DOWN, second, max_in_flight=8, max_attempts=1, max_consecutive_failures=1).run(
            [assignments(1)[0], assignments(1, 2, agent=BEN)[1]]
        )
        assert [type(outcome.stopped_by) for outcome in outcomes] == [ServerError, by]

    def test_what_was_to_be_tried_again_has_failed(self):
        outcomes = answering(DOWN, GOOD, GOOD, REVOKED, max_in_flight=2).run(assignments(1, 2, 3, 4, 5))
        assert {outcome.position: outcome.outcome for outcome in outcomes} == {
            1: "failed",
            2: "assigned",
            3: "assigned",
            4: "rejected",
            5: "not_attempted",
        }

    def test_a_wait_that_another_batch_was_told_is_left_to_airflow(self):
        batch = answering()
        batch.limiter.pause(600)
        (outcome,) = batch.run(assignments(1))
        assert (outcome.outcome, len(batch.sent)) == ("not_attempted", 0)
        assert isinstance(outcome.stopped_by, RateLimitError)
        assert 599 < outcome.stopped_by.retry_after < 601


class TestLastingLimits:
    """429s say "come again later". A worker doesn't do so for ever."""

    @pytest.mark.parametrize(("in_flight", "retry_after"), [(1, None), (8, None), (8, 30.0), (8, 60.0)])
    def test_nothing_but_429s_for_two_windows_stops_the_batch_for_a_retry(self, in_flight, retry_after):
        batch = answering(then=RateLimitError(429, "later\nwait", retry_after), max_in_flight=in_flight)
        started = batch.now
        outcomes = batch.run(assignments(1, 2, 3))
        assert 120 <= batch.now - started <= 200
        assert {type(outcome.stopped_by) for outcome in outcomes} == {RateLimitError}
        assert outcomes[0].stopped_by.retryable
        assert "nothing but 429. The last: later" in outcomes[0].stopped_by.reason
        assert len(batch.sent) < 60

    def test_any_other_answer_in_between_starts_anew(self):
        batch = answering([LATER] * 12 + [GOOD], [LATER] * 12 + [GOOD], [LATER] * 12 + [DOWN, GOOD])
        started = batch.now
        assert counts(batch.run(assignments(1, 2, 3))) == {"assigned": 3}
        assert batch.now - started > 240


class TestPacing:
    def test_a_batch_keeps_to_the_budget_without_a_single_429(self):
        key = Key(100)
        key.simulation = batch = Simulation(key, per_minute=90)
        started = batch.now
        assert counts(batch.run(assignments(*range(250)))) == {"assigned": 250}
        assert key.refused == 0
        assert 120 < batch.now - started < 125

    def test_others_on_the_key_cost_time_and_few_refusals(self):
        key = Key(100, others=lambda _: 60)
        key.simulation = batch = Simulation(key, per_minute=90, max_in_flight=8)
        assert counts(batch.run(assignments(*range(200)))) == {"assigned": 200}
        # All in flight when it comes out, then one at a time: one for each window, and a late answer or two.
        windows = (batch.now - 1000) / 60
        assert 0 < key.refused <= 8 + windows + 2

    def test_others_who_say_not_for_how_long_to_wait_cost_more(self):
        key = Key(100, others=lambda _: 50, retry_after=False)
        key.simulation = batch = Simulation(key, per_minute=90)
        assert counts(batch.run(assignments(*range(120)))) == {"assigned": 120}
        assert batch.now - 1000 < 200

    def test_while_it_waits_it_ticks_once_a_second_and_hands_out_what_is_known(self):
        batch = answering(per_minute=5)
        outcomes = batch.run(assignments(*range(6)))
        assert [outcome.position for outcome in outcomes] == list(range(1, 7))
        waits = [later - earlier for earlier, later in zip(batch.ticks, batch.ticks[1:], strict=False)]
        assert max(waits) <= 1.0
        assert len(batch.ticks) < 60 + 6 * 5

    def test_it_ticks_before_each_request(self):
        batch = answering(latency=0.0)
        batch.run(assignments(*range(10)))
        assert set(batch.sent_at) <= set(batch.ticks)
        assert len(batch.ticks) >= 10
