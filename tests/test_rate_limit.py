from __future__ import annotations

import itertools
import logging
import random
import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splashify_provider import rate_limit
from splashify_provider.client import is_worth_another_try
from splashify_provider.exceptions import RateLimitError
from splashify_provider.rate_limit import (
    LONGEST_WAIT,
    VENDOR_LIMIT,
    WINDOW,
    Budget,
    RateLimiter,
    SlidingWindow,
    limiter_for,
)


class Clock:
    """A time that passes only where somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


def most_in_any(window, times):
    """Count as Splashify does: the most requests in any period of this length."""
    return max(sum(start <= at < start + window for at in times) for start in times)


def acquire(limiter, clock):
    """Wait until a request may be sent. Return when that is."""
    while wait := limiter.try_acquire():
        clock.sleep(wait)
    return clock.now


def send(limiter, clock, count, gaps=()):
    times = []
    for number in range(count):
        clock.sleep(gaps[number] if number < len(gaps) else 0)
        times.append(acquire(limiter, clock))
    return times


class TestSlidingWindow:
    def test_requests_fit_again_when_earlier_ones_are_a_period_old(self):
        window = SlidingWindow((2, 60.0))
        window.add(0.0)
        assert window.wait(10.0) == 0
        window.add(10.0)
        assert window.wait(30.0) == 30
        assert window.wait(59.9) == pytest.approx(0.1)
        assert window.wait(60.0) == 0
        window.add(60.0)
        assert window.wait(60.0) == 10

    def test_the_longest_wait_of_several_periods_holds(self):
        window = SlidingWindow((3, 60.0), (1, 10.0))
        for at in (0.0, 10.0, 20.0):
            assert window.wait(at) == 0
            window.add(at)
            assert window.wait(at) == (10 if at < 20 else 40)
        assert window.wait(59.0) == 1

    def test_what_is_taken_back_was_never_there(self):
        window = SlidingWindow((1, 60.0))
        window.add(0.0)
        window.take_back(0.0)
        assert window.wait(0.0) == 0
        window.add(1.0)
        assert window.used(61.0) == 0
        window.take_back(1.0)  # it is out of the period already

    def test_only_a_period_is_kept(self):
        window = SlidingWindow((5, 60.0))
        for at in range(0, 10_000, 20):
            assert window.wait(at) == 0
            window.add(at)
            assert window.used(at) <= 3


class TestBudget:
    def test_its_repr_has_no_address(self):
        assert "pa55word" not in repr(Budget("x", 1, 1, "redis://:pa55word@redis/0"))


class TestInMemory:
    @settings(max_examples=40, deadline=None)
    @given(
        per_minute=st.integers(1, 30),
        burst=st.integers(1, 30),
        gaps=st.lists(st.floats(0, 30), max_size=60),
    )
    def test_no_window_holds_more_than_the_budget_and_no_instant_more_than_the_burst(self, per_minute, burst, gaps):
        burst = min(burst, per_minute)
        clock = Clock()
        times = send(RateLimiter(Budget("x", per_minute, burst), clock), clock, 60, gaps)
        assert most_in_any(60.0, times) <= per_minute
        assert most_in_any(60.0 * burst / per_minute, times) <= burst

    @pytest.mark.parametrize("burst", [VENDOR_LIMIT, 10, 1])
    def test_splashify_refuses_nothing_though_each_request_takes_up_to_a_second_to_arrive(self, clock, burst):
        limiter, latency = RateLimiter(Budget("x", VENDOR_LIMIT, burst), clock), random.Random(burst)
        splashify = SlidingWindow((VENDOR_LIMIT, WINDOW))
        for at in sorted(at + latency.uniform(0, 1) for at in send(limiter, clock, 400)):
            assert splashify.wait(at) == 0
            splashify.add(at)

    def test_a_whole_burst_goes_at_once_and_the_rest_as_early_as_the_window_lets_it(self, clock):
        times = send(RateLimiter(Budget("x", 100, 100), clock), clock, 250)
        assert Counter(round(at - 1000) for at in times) == {0: 100, 61: 100, 122: 50}

    def test_a_burst_of_one_is_an_even_pace(self, clock):
        times = send(RateLimiter(Budget("x", 60, 1), clock), clock, 61)
        assert {round(later - at, 2) for at, later in itertools.pairwise(times)} == {1.02}

    @pytest.mark.parametrize(("per_minute", "burst"), [(100_000, 1), (61_001, 1), (100_000, 99_999), (1, 1)])
    def test_the_widest_budgets_that_a_connection_may_have_work(self, clock, per_minute, burst):
        times = send(RateLimiter(Budget("x", per_minute, burst), clock), clock, 3)
        assert times[-1] - times[0] == pytest.approx(0 if per_minute > 1 else 122, abs=0.01)

    def test_threads_share_it(self, clock):
        limiter, granted = RateLimiter(Budget("x", 10, 10), clock), []

        def work():
            granted.extend(limiter.try_acquire() == 0 for _ in range(500))

        for _ in range(2):  # two windows
            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            clock.sleep(61)
        assert Counter(granted) == {True: 20, False: 7980}

    def test_the_wait_and_the_time_for_more_are_known(self, clock):
        limiter = RateLimiter(Budget("x", 90, 30), clock)
        assert limiter.wait == 0
        assert limiter.seconds_for(30) == 0
        assert limiter.seconds_for(31) == 20
        send(limiter, clock, 30)
        assert limiter.try_acquire() == limiter.wait == pytest.approx(20.33, abs=0.01)
        assert limiter.seconds_for(61) == pytest.approx(60.33, abs=0.01)
        clock.sleep(60)
        assert limiter.wait == 0


class TestOneKey:
    def test_one_process_has_one_limiter_for_a_key(self):
        assert limiter_for(Budget("x", 5, 5)) is limiter_for(Budget("x", 5, 5))
        assert limiter_for(Budget("x", 5, 5)) is not limiter_for(Budget("y", 5, 5))

    def test_the_lowest_limit_holds_for_all_who_share_a_key(self, clock, monkeypatch):
        monkeypatch.setattr(rate_limit, "RateLimiter", lambda budget: RateLimiter(budget, clock))
        wide = limiter_for(Budget("x", 100, 100))
        assert [wide.try_acquire() for _ in range(8)] == [0] * 8
        modest = limiter_for(Budget("x", 10, 10))
        assert [modest.try_acquire() for _ in range(2)] == [0] * 2
        assert wide.try_acquire() > 60
        assert wide.requests_per_minute == 10
        waits = [limiter_for(Budget("y", 100, burst)).try_acquire() for burst in (100, 1)]
        assert waits == [0, pytest.approx(0.61)]

    def test_a_burst_that_becomes_longer_counts_what_was_sent_before(self, clock):
        limiter = RateLimiter(Budget("x", 60, 2), clock)
        send(limiter, clock, 2)
        clock.sleep(3)  # the burst's share of the minute is over
        limiter.tighten(Budget("x", 6, 6))  # now it is 20.3 s
        assert limiter.try_acquire() == pytest.approx(17.33, abs=0.01)


class TestPause:
    def test_nobody_sends_until_it_is_over(self, clock, caplog):
        limiter = RateLimiter(Budget("x", 100, 100), clock)
        assert limiter.try_acquire() == 0
        assert not limiter.is_contended
        limiter.pause(20)
        limiter.pause(5)  # an earlier end doesn't shorten it
        assert limiter.is_contended
        assert 20 <= acquire(limiter, clock) - 1000 <= 20.5
        assert caplog.text.count("rate limit is reached although requests are paced") == 1
        clock.sleep(WINDOW - 1)
        assert limiter.is_contended
        clock.sleep(1)
        assert not limiter.is_contended

    def test_processes_that_count_for_themselves_come_back_apart(self, clock):
        limiters = [RateLimiter(Budget("x", 100, 100), clock) for _ in range(20)]
        for limiter in limiters:
            limiter.pause(20)
        assert len({limiter.try_acquire() for limiter in limiters}) == 20

    @pytest.mark.parametrize("seconds", [61, 89.9, LONGEST_WAIT])
    def test_a_wait_that_is_worth_waiting_for_does_not_become_too_long(self, clock, seconds):
        error = RateLimitError(429, "x", seconds)
        assert is_worth_another_try(error)
        for _ in range(20):
            limiter = RateLimiter(Budget("x", 100, 100), clock)
            limiter.pause(error.retry_after)
            assert seconds <= limiter.try_acquire() <= min(seconds + 0.5, LONGEST_WAIT)

    def test_an_absurd_wait_ends_after_an_hour(self, clock):
        limiter = RateLimiter(Budget("x", 100, 100), clock)
        limiter.pause(1e12)
        assert limiter.try_acquire() == pytest.approx(3600, abs=1)
        clock.sleep(3601)
        assert limiter.try_acquire() == 0


class TestWithoutRedis:
    @pytest.mark.parametrize("option", ["retry=3", "encoding=nope", "credential_provider=x", "max_connections=abc"])
    def test_options_of_its_address_that_make_no_sense_fall_back_to_local_counting(self, clock, option, caplog):
        limiter = RateLimiter(Budget("x", 5, 5, f"redis://:pa55word@127.0.0.1:1/0?{option}"), clock)
        assert [limiter.try_acquire() for _ in range(5)] == [0] * 5
        assert limiter.try_acquire() > 60
        assert caplog.text.count("The rate limit storage at 127.0.0.1 can't be used") == 1
        assert "pa55word" not in caplog.text

    def test_it_is_asked_again_after_half_a_minute_and_warned_of_once(self, clock, caplog, monkeypatch):
        caplog.set_level(logging.INFO)
        asked = []
        monkeypatch.setattr(rate_limit._Store, "_connect", lambda _: asked.append(clock.now) or 1 / 0)
        limiter = RateLimiter(Budget("x", 90, 1, "redis://127.0.0.1/0"), clock)
        send(limiter, clock, 91)
        assert {round(later - at) for at, later in itertools.pairwise(asked)} == {30, 31}
        assert len(caplog.records) == 1
