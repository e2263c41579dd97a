"""Threads that wait for answers, and the sandbox that gives them."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from splashify_provider.bulk.agents import MOST_WAITING, Job
from splashify_provider.bulk.sender import Exchanges, assign_many
from splashify_provider.exceptions import AuthenticationError, RateLimitError, SplashifyConfigurationError
from splashify_provider.hooks.splashify import SplashifyHook
from tests.bulk.simulation import assignments, client
from tests.conftest import ADA, BEN, CLOSED, DAN, PHONE, counts, number, rows, team


class TestOutcomes:
    @pytest.mark.parametrize("max_in_flight", [1, 8])
    def test_every_row_has_its_own(self, workspace, max_in_flight):
        hook, sandbox, _ = workspace(team(10, n6="server_error", n7="bad_request", n8="not_json", n9="reset"))
        given = [
            *rows(0),
            {"user_phone_number": "+" + CLOSED, "agent_email": ADA},
            *rows(2, agent="nobody@example.com"),
            *rows(3, agent=DAN),
            {"user_phone_number": "12", "agent_email": ADA},
            {"user_phone_number": "+" + number(5), "agent_email": ""},
            *rows(6, 7, 8, 9),
            "not a row",
        ]
        outcomes = {outcome.position: outcome for outcome in hook.assign_many(given, max_in_flight=max_in_flight)}
        assert [outcomes[position].outcome for position in range(1, 12)] == [
            "assigned",
            "conversation_not_found",
            "agent_not_found",
            "agent_inactive",
            "invalid",
            "invalid",
            "failed",
            "rejected",
            "rejected",
            "failed",
            "invalid",
        ]
        assert outcomes[1].message == "Chat Assigned Successfully"
        assert sandbox.workspace.conversations[number(0)].agent_email == ADA
        assert sandbox.workspace.conversations[number(5)].agent_email is None
        assert "release()" in outcomes[6].message
        for outcome in outcomes.values():
            assert outcome.error is None or outcome.message == outcome.error.message
            assert "12025550" not in repr(outcome) + outcome.message

    def test_who_is_next_in_line_has_it_where_the_agent_is_refused(self, workspace):
        hook, _, posted = workspace()
        given = [{**row, "fallback_agents": [BEN]} for row in rows(*range(20), agent=DAN)]
        outcomes = list(hook.assign_many(given))
        assert {(outcome.outcome, outcome.agent_email, *outcome.refused) for outcome in outcomes} == {
            ("assigned", BEN, DAN)
        }
        assert [agent for _, agent in posted].count(DAN) == 1
        assert len(posted) == 21

    def test_nothing_is_an_empty_batch(self, workspace):
        hook, sandbox, _ = workspace()
        assert list(hook.assign_many([])) == []
        assert not sandbox.workspace.answers

    @pytest.mark.parametrize("scenario", ["server_error:2", "reset:2", "truncated:2"])
    def test_passing_trouble_is_overcome(self, workspace, scenario):
        hook, _, _ = workspace(team(20, **{f"n{index}": scenario for index in range(0, 20, 5)}))
        assert counts(hook.assign_many(rows(*range(20)))) == {"assigned": 20}

    def test_a_hanging_request_holds_up_nobody_else(self, workspace):
        hook, _, _ = workspace(team(50, n7="hang"), extra={"timeout": 1.0, "max_attempts": 1})
        outcomes = list(hook.assign_many(rows(*range(50))))
        assert counts(outcomes) == {"assigned": 49, "failed": 1}
        assert outcomes[-1].position == 8

    def test_one_numbers_assignments_keep_their_order_whatever_fails_between(self, workspace):
        hook, sandbox, posted = workspace(team(10, n1="server_error:2", n3="reset:1"))
        given = [row for turn in range(20) for index in range(10) for row in rows(index, agent=[ADA, BEN][turn % 2])]
        assert counts(hook.assign_many(given)) == {"assigned": 200}
        for index in range(10):
            wanted = [row["agent_email"] for row in given if row["user_phone_number"] == "+" + number(index)]
            assert [agent for phone, agent in posted if phone == number(index)] == wanted
        assert {sandbox.workspace.conversations[number(index)].agent_email for index in range(10)} == {BEN}

    def test_latency_does_not_set_the_speed(self, workspace):
        hook, _, _ = workspace(latency=0.1)
        started = time.monotonic()
        assert counts(hook.assign_many(rows(*range(160)), max_in_flight=16)) == {"assigned": 160}
        assert time.monotonic() - started < 8  # one after the other: 16 s


class TestReading:
    @pytest.mark.parametrize(
        "arguments", [{"max_in_flight": 0}, {"max_in_flight": 65}, {"max_consecutive_failures": True}]
    )
    def test_a_bad_argument_is_refused_before_anything_is_read(self, arguments):
        with pytest.raises(SplashifyConfigurationError, match=next(iter(arguments))):
            assign_many(client(), rows(0), **arguments)

    def test_an_outcome_is_known_one_row_later_at_most(self):
        read, behind = [], []

        def slow():
            for row in rows(*range(10)):
                time.sleep(0.02)
                read.append(row)
                yield row

        behind.extend(len(read) - outcome.position for outcome in assign_many(client(), slow()))
        assert max(behind) <= 1

    def test_rows_are_read_as_they_are_needed(self):
        read = []

        def endless():
            for index in itertools.count():
                read.append(index)
                yield rows(index % 1000)[0]

        outcomes = assign_many(client(), endless(), max_in_flight=4)
        assert read == []
        for _ in range(100):
            next(outcomes)
        outcomes.close()
        assert len(read) <= 100 + MOST_WAITING + 4 + 1

    @pytest.mark.parametrize("max_in_flight", [1, 8, 64])
    def test_a_source_that_breaks_loses_no_outcome_of_what_was_sent(self, max_in_flight):
        posted, known = [], []

        def broken():
            yield from rows(*range(100))
            raise OSError("the database went away")

        def send(phone, _):
            posted.append(phone)
            return "assigned"

        outcomes = assign_many(client(send), broken(), max_in_flight=max_in_flight)
        with pytest.raises(OSError, match="went away"):
            known.extend(outcome.user_phone_number for outcome in outcomes)
        assert sorted(known) == sorted(posted)
        assert posted


class TestEnding:
    def test_a_batch_that_is_given_up_leaves_no_thread_behind(self):
        before = threading.active_count()
        outcomes = assign_many(client(), rows(*range(500)), max_in_flight=8)
        next(outcomes)
        assert threading.active_count() > before
        outcomes.close()
        assert threading.active_count() == before

    @pytest.mark.parametrize("max_in_flight", [1, 8])
    def test_a_fault_in_a_thread_is_raised_where_the_batch_is_read(self, max_in_flight):
        with pytest.raises(ZeroDivisionError):
            list(assign_many(client(lambda *_: 1 / 0), rows(*range(5)), max_in_flight=max_in_flight))

    def test_what_a_tick_raises_ends_the_batch_once_the_answers_under_way_are_known(self):
        class Told(BaseException):
            pass

        posted, threads = [], threading.active_count()

        def send(phone, _):
            posted.append(phone)
            time.sleep(0.2)
            return "assigned"

        def tick():
            if len(posted) >= 8:
                raise Told

        known = []
        with pytest.raises(Told):
            known.extend(outcome.position for outcome in assign_many(client(send), rows(*range(100)), on_tick=tick))
        assert sorted(known) == list(range(1, len(posted) + 1))
        assert len(posted) < 17
        assert threading.active_count() <= threads

    def test_a_request_that_hangs_is_left_behind(self):
        never, (slow, quick) = threading.Event(), assignments(1, 2)
        exchanges = Exchanges(
            lambda phone, _: "assigned" if phone == quick.user_phone_number else never.wait(30) or "",
            client().limiter,
            in_threads=True,
        )
        for item in (slow, quick):
            exchanges.start(Job(item))
        started = time.monotonic()
        assert [job.item for job, _ in exchanges.late_answers(0.2)] == [quick]
        exchanges.end()
        assert time.monotonic() - started < 2
        never.set()

    @pytest.mark.parametrize("key", ["sk_live_old", "sk_sandbox_ip_blocked"])
    def test_a_refused_key_stops_the_batch_at_once(self, workspace, connect, key):
        _, sandbox, _ = workspace()
        connect(sandbox.base_url, password=key)
        outcomes = list(SplashifyHook().assign_many(rows(*range(500))))
        tally = counts(outcomes)
        assert tally["rejected"] <= 8
        assert tally["rejected"] + tally["not_attempted"] == 500
        assert sum(sandbox.workspace.answers.values()) == tally["rejected"]
        assert [outcome.position for outcome in outcomes[-400:]] == list(range(101, 501))

    def test_a_refused_key_is_used_once_where_rows_come_slowly(self):
        posted = []

        def refuse(*_):
            posted.append(1)
            raise AuthenticationError(401, "revoked")

        def slow():
            for row in rows(*range(5)):
                time.sleep(0.05)
                yield row

        assert counts(assign_many(client(refuse), slow())) == {"rejected": 1, "not_attempted": 4}
        assert len(posted) == 1


class TestOneKey:
    """What one batch is told holds for everything that uses the key in this process."""

    @pytest.mark.parametrize("goes_on", [True, False])
    def test_a_429_holds_others_back_whoever_looks_at_the_answer_and_when(self, workspace, goes_on):
        hook, sandbox, _ = workspace(team(20, n5="rate_limited_long"), latency=0.1)
        outcomes = hook.assign_many(rows(*range(20)))
        next(outcomes), next(outcomes)  # the first one goes alone
        deadline = time.monotonic() + 5
        while not sandbox.workspace.answers[429] and time.monotonic() < deadline:
            time.sleep(0.02)
        if not goes_on:
            outcomes.close()
        time.sleep(0.1)
        with pytest.raises(RateLimitError, match="another 600 s"):
            SplashifyHook().assign("+" + number(19), ADA)
        outcomes.close()

    def test_single_calls_ask_the_same_limiter(self, workspace, sleeps):
        hook, sandbox, _ = workspace(per_minute=5)
        assert counts(hook.assign_many(rows(0, 1, 2))) == {"assigned": 3}
        for index in range(3, 6):
            SplashifyHook(sleep=sleeps.append).assign("+" + number(index), ADA)
        assert 50 < sum(sleeps) <= 61.1
        SplashifyHook(sleep=sleeps.append).release("+" + number(0))
        assert sandbox.workspace.answers == {200: 7}

    def test_a_long_wait_is_left_to_airflow(self, workspace):
        hook, _, _ = workspace(team(100, n50="rate_limited_long"))
        outcomes = list(hook.assign_many(rows(*range(100)), max_in_flight=1))
        assert counts(outcomes) == {"assigned": 50, "failed": 1, "not_attempted": 49}
        assert isinstance(outcomes[-1].error, RateLimitError)
        assert outcomes[-1].error.retry_after == 600
        with pytest.raises(RateLimitError):  # and for everything else on this key
            hook.assign(PHONE, ADA)
