from __future__ import annotations

import itertools
import threading
import time

import pytest

from splashify_provider import rate_limit
from splashify_provider.exceptions import (
    AuthenticationError,
    BadRequestError,
    RateLimitError,
    ServerError,
    SplashifyConfigurationError,
)
from splashify_provider.hooks import batch
from splashify_provider.hooks.splashify import SplashifyHook
from tests.conftest import ADA, BEN, CLOSED, DAN, PHONE, counts, number, rows, team


class NotAvailable:
    """As pandas says that a cell is empty."""

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")


class TestOutcomes:
    @pytest.mark.parametrize(
        "row",
        [
            {"user_phone_number": 10**5000, "agent_email": ADA},
            {"user_phone_number": "+" + number(2), "agent_email": 10**5000},
            {"user_phone_number": "+" + number(2), "agent_email": NotAvailable()},
            {"user_phone_number": NotAvailable(), "agent_email": ADA},
        ],
    )
    def test_a_row_of_whatever_is_invalid_and_stops_nobody(self, workspace, row):
        hook, _, _ = workspace()
        assert counts(hook.assign_many([row, *rows(1)])) == {"invalid": 1, "assigned": 1}

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

    def test_nothing_is_an_empty_batch(self, workspace):
        hook, sandbox, _ = workspace()
        assert list(hook.assign_many([])) == []
        assert not sandbox.workspace.answers

    @pytest.mark.parametrize("scenario", ["server_error:2", "reset:2", "truncated:2", "rate_limited:3"])
    def test_passing_trouble_is_healed(self, workspace, scenario):
        hook, _, _ = workspace(team(20, **{f"n{index}": scenario for index in range(0, 20, 5)}))
        assert counts(hook.assign_many(rows(*range(20)))) == {"assigned": 20}

    def test_a_hanging_request_holds_up_nobody_else(self, workspace):
        hook, _, _ = workspace(team(50, n0="hang"), extra={"timeout": 1.0, "max_attempts": 1})
        outcomes = list(hook.assign_many(rows(*range(50))))
        assert counts(outcomes) == {"assigned": 49, "failed": 1}
        assert outcomes[-1].position == 1

    def test_a_bad_argument_is_refused_before_anything_is_read(self, workspace):
        hook, _, _ = workspace()
        for arguments in ({"max_in_flight": 0}, {"max_in_flight": 65}, {"max_consecutive_failures": True}):
            with pytest.raises(SplashifyConfigurationError, match=next(iter(arguments))):
                hook.assign_many(rows(0), **arguments)


class TestOrder:
    def test_one_numbers_assignments_keep_their_order_whatever_fails_between(self, workspace):
        hook, sandbox, posted = workspace(team(10, n1="server_error:2", n3="rate_limited:3"))
        given = [row for turn in range(20) for index in range(10) for row in rows(index, agent=[ADA, BEN][turn % 2])]
        assert counts(hook.assign_many(given)) == {"assigned": 200}
        for index in range(10):
            wanted = [row["agent_email"] for row in given if row["user_phone_number"] == "+" + number(index)]
            assert [agent for phone, agent in posted if phone == number(index)] == wanted
        assert {sandbox.workspace.conversations[number(index)].agent_email for index in range(10)} == {BEN}

    def test_what_comes_next_for_a_number_waits_until_the_last_has_been_tried_again(self, workspace, monkeypatch):
        monkeypatch.setattr(batch, "retry_delay", lambda *_: 0.3)
        hook, _, posted = workspace(team(10, n1="server_error:1"))
        assert counts(hook.assign_many([*rows(1, agent=ADA), *rows(1, agent=BEN)])) == {"assigned": 2}
        assert posted == [(number(1), ADA), (number(1), BEN)]


class TestLaziness:
    def test_an_outcome_is_known_one_row_later_at_most(self, workspace):
        hook, _, _ = workspace()
        read, behind = [], []

        def slow():
            for row in rows(*range(10)):
                time.sleep(0.1)
                read.append(row)
                yield row

        behind.extend(len(read) - outcome.position for outcome in hook.assign_many(slow(), max_in_flight=8))
        assert max(behind) <= 1

    @pytest.mark.parametrize("max_in_flight", [1, 8, 64])
    def test_a_source_that_breaks_loses_no_outcome_of_what_was_sent(self, workspace, max_in_flight):
        hook, _, posted = workspace()
        known = []

        def broken():
            yield from rows(*range(100))
            raise OSError("the database went away")

        with pytest.raises(OSError, match="went away"):
            known.extend(
                outcome.user_phone_number for outcome in hook.assign_many(broken(), max_in_flight=max_in_flight)
            )
        assert sorted(known) == sorted(phone for phone, _ in posted) == [number(index) for index in range(100)]

    def test_rows_are_read_as_they_are_needed(self, workspace):
        hook, _, _ = workspace()
        read = []

        def endless():
            for index in itertools.count():
                read.append(index)
                yield rows(index % 1000)[0]

        outcomes = hook.assign_many(endless(), max_in_flight=4)
        assert read == []
        for _ in range(100):
            next(outcomes)
        outcomes.close()
        assert len(read) <= 100 + 4 + 1

    def test_a_batch_that_is_given_up_leaves_no_thread_behind(self, workspace):
        hook, _, _ = workspace()
        before = threading.active_count()
        outcomes = hook.assign_many(rows(*range(500)), max_in_flight=8)
        next(outcomes)
        assert threading.active_count() > before
        outcomes.close()
        assert threading.active_count() == before

    def test_a_fault_in_a_thread_is_raised_where_the_batch_is_read(self, workspace, monkeypatch):
        hook, _, _ = workspace()
        monkeypatch.setattr(hook, "_exchange", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(hook.assign_many(rows(*range(5))))

    def test_what_the_idle_callback_raises_ends_the_batch(self, workspace, monkeypatch):
        monkeypatch.setattr(batch, "_SECONDS_BETWEEN_IDLE_CALLS", 0.05)

        class Told(BaseException):
            pass

        def told():
            raise Told

        hook, _, posted = workspace(latency=0.2)
        started, threads = time.monotonic(), threading.active_count()
        known = []
        with pytest.raises(Told):
            known.extend(outcome.position for outcome in hook.assign_many(rows(*range(100)), on_idle=told))
        assert time.monotonic() - started < 5
        assert len(known) == len(posted) == 8  # what was under way is known
        assert threading.active_count() == threads


class TestInFlight:
    def test_latency_does_not_set_the_speed(self, workspace):
        hook, _, _ = workspace(latency=0.1)
        started = time.monotonic()
        assert counts(hook.assign_many(rows(*range(160)), max_in_flight=16)) == {"assigned": 160}
        assert time.monotonic() - started < 8  # one after the other: 16 s

    def test_no_more_are_under_way_than_said(self, workspace):
        hook, _, _ = workspace(team(60, n5="server_error:2"))
        at_once, most, lock = 0, 0, threading.Lock()
        exchange = hook._exchange

        def counting(phone, email):
            nonlocal at_once, most
            with lock:
                at_once += 1
                most = max(most, at_once)
            try:
                return exchange(phone, email)
            finally:
                with lock:
                    at_once -= 1

        hook._exchange = counting
        assert counts(hook.assign_many(rows(*range(60)), max_in_flight=3)) == {"assigned": 60}
        assert 1 < most <= 3


class TestStopping:
    @pytest.mark.parametrize("key", ["sk_live_old", "sk_sandbox_ip_blocked"])
    def test_a_refused_key_stops_the_batch_at_once(self, workspace, connect, key):
        _, sandbox, _ = workspace()
        connect(sandbox.base_url, password=key)
        outcomes = list(SplashifyHook().assign_many(rows(*range(500))))
        tally = counts(outcomes)
        assert tally["rejected"] <= 8
        assert tally["rejected"] + tally["not_attempted"] == 500
        assert sum(sandbox.workspace.answers.values()) == tally["rejected"]
        assert "stopped at position" in outcomes[-1].message
        assert [outcome.position for outcome in outcomes[-400:]] == list(range(101, 501))

    def test_a_service_that_is_down_is_left_alone_after_some_failures(self, workspace):
        hook, sandbox, _ = workspace(team(500), extra={"max_attempts": 2})
        sandbox.workspace.set_scenario("sk_live_sandbox", "unavailable")
        tally = counts(hook.assign_many(rows(*range(500)), max_in_flight=4, max_consecutive_failures=6))
        assert 6 <= tally["failed"] <= 6 + 4
        assert tally["failed"] + tally["not_attempted"] == 500
        assert sandbox.workspace.answers[503] <= 2 * (6 + 4)

    def test_failures_that_are_not_in_a_row_do_not_stop_it(self, workspace):
        hook, _, _ = workspace(team(40, **{f"n{index}": "server_error" for index in range(0, 40, 4)}))
        tally = counts(hook.assign_many(rows(*range(40)), max_in_flight=1, max_consecutive_failures=2))
        assert tally == {"assigned": 30, "failed": 10}

    def test_customers_without_a_conversation_are_no_failures(self, workspace):
        hook, _, _ = workspace(team(5))
        tally = counts(hook.assign_many(rows(*range(100, 150)), max_consecutive_failures=2))
        assert tally == {"conversation_not_found": 50}

    def test_a_wrong_address_is_not_asked_five_thousand_times(self, workspace, connect):
        _, sandbox, _ = workspace()
        connect(sandbox.base_url, password="sk_sandbox_not_found", extra={"requests_per_minute": 100_000})
        tally = counts(SplashifyHook().assign_many(rows(*range(500))))
        assert tally["rejected"] <= 10 + 8

    def test_a_long_wait_is_left_to_airflow(self, workspace):
        hook, _, _ = workspace(team(100, n50="rate_limited_long"))
        outcomes = list(hook.assign_many(rows(*range(100)), max_in_flight=1))
        assert counts(outcomes) == {"assigned": 50, "failed": 1, "not_attempted": 49}
        assert isinstance(outcomes[-1].error, RateLimitError)
        assert outcomes[-1].error.retry_after == 600
        with pytest.raises(RateLimitError):  # and for everything else on this key
            hook.assign(PHONE, ADA)

    def test_a_refused_key_is_named(self, workspace, connect):
        _, sandbox, _ = workspace()
        connect(sandbox.base_url, password="sk_live_old")
        outcomes = list(SplashifyHook().assign_many(rows(0, 1), max_in_flight=1))
        assert [type(outcome.error) for outcome in outcomes] == [AuthenticationError] * 2

    def test_a_refusal_of_one_row_ends_a_row_of_failures(self, workspace):
        scenarios = {f"n{index}": "server_error" for index in (0, 2, 4, 6)}
        hook, _, _ = workspace(team(8, **scenarios, n1="bad_request", n3="bad_request", n5="bad_request"))
        tally = counts(hook.assign_many(rows(*range(8)), max_in_flight=1, max_consecutive_failures=2))
        assert tally == {"assigned": 1, "failed": 4, "rejected": 3}

    def test_who_says_come_again_later_for_ever_is_given_up(self, workspace, monkeypatch):
        monkeypatch.setattr(rate_limit.RateLimiter, "pause", lambda *_: None)
        hook, sandbox, _ = workspace(team(3, n1="rate_limited"))
        assert counts(hook.assign_many(rows(0, 1, 2))) == {"assigned": 2, "failed": 1}
        assert sandbox.workspace.answers[429] == 20

    def test_refusals_of_single_rows_do_not_stop_it(self, workspace):
        hook, _, _ = workspace(team(100, **{f"n{index}": "bad_request" for index in range(10, 25)}))
        assert counts(hook.assign_many(rows(*range(100)))) == {"assigned": 85, "rejected": 15}

    @pytest.mark.parametrize("scenario", ["unavailable", "not_found"])
    def test_what_stopped_it_names_the_knob(self, workspace, scenario):
        hook, sandbox, _ = workspace(team(100), extra={"max_attempts": 1})
        sandbox.workspace.set_scenario("sk_live_sandbox", scenario)
        outcomes = list(hook.assign_many(rows(*range(20)), max_in_flight=1, max_consecutive_failures=3))
        assert [bool(outcome.stopped_by) for outcome in outcomes] == [False] * 2 + [True] * 18
        assert "3 failures in a row (max_consecutive_failures=3)" in outcomes[2].stopped_by.message

    def test_a_refused_key_is_used_once_where_rows_come_slowly(self, workspace, connect):
        _, sandbox, _ = workspace()
        connect(sandbox.base_url, password="sk_live_old")

        def slow():
            for row in rows(*range(5)):
                time.sleep(0.1)
                yield row

        assert counts(SplashifyHook().assign_many(slow())) == {"rejected": 1, "not_attempted": 4}
        assert sandbox.workspace.answers == {401: 1}

    @pytest.mark.parametrize("size", [1, 3, 8])
    def test_the_last_rows_may_stop_it_too(self, workspace, connect, size):
        _, sandbox, _ = workspace()
        connect(sandbox.base_url, password="sk_live_old")
        outcomes = list(SplashifyHook().assign_many(rows(*range(size)), max_in_flight=8))
        assert set(counts(outcomes)) <= {"rejected", "not_attempted"}
        assert len(outcomes) == size
        assert all(isinstance(outcome.stopped_by, AuthenticationError) for outcome in outcomes)

    def test_a_refused_key_outweighs_failures_before_it(self, workspace, monkeypatch):
        hook, _, _ = workspace(extra={"max_attempts": 1})
        answers = {number(0): ServerError(500, "down"), number(1): AuthenticationError(401, "revoked")}

        def exchange(phone, _):
            time.sleep(0.2 * (phone == number(1)))
            raise answers[phone]

        monkeypatch.setattr(hook, "_exchange", exchange)
        outcomes = list(hook.assign_many(rows(0, 1), max_consecutive_failures=1))
        assert isinstance(outcomes[0].stopped_by, ServerError)
        assert isinstance(outcomes[1].stopped_by, AuthenticationError)

    def test_no_other_refusal_does(self, workspace, monkeypatch):
        hook, _, _ = workspace(extra={"max_attempts": 1})

        def exchange(phone, _):
            time.sleep(0.2 * (phone == number(1)))
            raise ServerError(500, "down") if phone == number(0) else BadRequestError(404, "no such page")

        monkeypatch.setattr(hook, "_exchange", exchange)
        outcomes = list(hook.assign_many(rows(0, 1), max_consecutive_failures=1))
        assert [type(outcome.stopped_by) for outcome in outcomes] == [ServerError] * 2
