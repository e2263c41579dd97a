from __future__ import annotations

import itertools
import signal
import threading
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splashify_provider import rate_limit
from splashify_provider.client import is_worth_another_try
from splashify_provider.exceptions import RateLimitError
from splashify_provider.rate_limit import Budget, Pacer, pacer_for


class Clock:
    """A time that passes only where somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def most_in_any(window, times):
    """Count as Splashify does: the most requests in any period of this length."""
    return max(sum(start <= at < start + window for at in times) for start in times)


def send(pacer, clock, count, gaps=()):
    times = []
    for number in range(count):
        clock.sleep(gaps[number] if number < len(gaps) else 0)
        pacer.acquire(clock.sleep)
        times.append(clock.now)
    return times


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
        times = send(Pacer(Budget("x", per_minute, burst), clock), clock, 60, gaps)
        assert most_in_any(60.0, times) <= per_minute
        assert most_in_any(60.0 * burst / per_minute, times) <= burst

    def test_a_whole_burst_goes_at_once_and_the_rest_as_early_as_the_window_lets_it(self):
        clock = Clock()
        times = send(Pacer(Budget("x", 100, 100), clock), clock, 250)
        assert Counter(round(at - 1000) for at in times) == {0: 100, 61: 100, 122: 50}

    def test_a_burst_of_one_is_an_even_pace(self):
        clock = Clock()
        times = send(Pacer(Budget("x", 60, 1), clock), clock, 61)
        assert {round(later - at, 2) for at, later in itertools.pairwise(times)} == {1.02}

    @pytest.mark.parametrize(("per_minute", "burst"), [(100_000, 1), (61_001, 1), (100_000, 99_999), (1, 1)])
    def test_the_widest_budgets_that_a_connection_may_have_work(self, per_minute, burst):
        clock = Clock()
        times = send(Pacer(Budget("x", per_minute, burst), clock), clock, 3)
        assert times[-1] - times[0] == pytest.approx(0 if per_minute > 1 else 122, abs=0.01)

    def test_a_request_that_arrives_late_does_not_make_the_next_ones_too_early(self):
        # The first is counted by Splashify 0.9 s after it left; 60 s after that there is room again.
        clock = Clock()
        times = send(Pacer(Budget("x", 1, 1), clock), clock, 2)
        assert times[1] - (times[0] + 0.9) >= 60

    def test_what_was_sent_is_forgotten_after_its_window(self):
        clock = Clock()
        pacer = Pacer(Budget("x", 5, 5), clock)
        send(pacer, clock, 200)
        assert pacer._sent.count() <= 11

    def test_one_process_has_one_door_for_a_budget(self):
        assert pacer_for(Budget("x", 5, 5)) is pacer_for(Budget("x", 5, 5))
        assert pacer_for(Budget("x", 5, 5)) is not pacer_for(Budget("y", 5, 5))

    def test_who_asks_for_more_on_the_same_key_gets_what_the_most_modest_asked_for(self, monkeypatch):
        clock = Clock()
        monkeypatch.setattr(rate_limit, "monotonic", clock)
        wide = pacer_for(Budget("x", 100, 100))
        assert [wide.try_acquire() for _ in range(8)] == [0] * 8
        modest = pacer_for(Budget("x", 10, 10))
        assert [modest.try_acquire() for _ in range(2)] == [0] * 2
        assert wide.try_acquire() > 60
        assert [pacer_for(Budget("y", 100, burst)).try_acquire() for burst in (100, 1)] == [0, 0.611]

    def test_who_counts_in_a_shared_storage_takes_all_on_that_key_there(self, redis_server):
        alone = pacer_for(Budget("x", 5, 5))
        assert alone.try_acquire() == 0
        pacer_for(Budget("x", 5, 5, redis_server.url))
        assert [alone.try_acquire() for _ in range(4)] == [0] * 4
        assert Pacer(Budget("x", 5, 5, redis_server.url)).try_acquire() == 0  # it was told of those four, not of all
        assert Pacer(Budget("x", 5, 5, redis_server.url)).try_acquire() > 50

    def test_threads_share_it(self, monkeypatch):
        monkeypatch.setattr(rate_limit, "WINDOW", 0.6)
        pacer, times = Pacer(Budget("x", 10, 10)), []

        def work():
            for _ in range(4):
                pacer.acquire()
                times.append(time.monotonic())

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(times) == 32
        assert most_in_any(0.6, times) <= 10
        assert max(times) - min(times) < 3 * 0.61 + 0.5

    def test_a_signal_ends_the_wait(self):
        class Told(BaseException):
            pass

        def told(*_):
            raise Told

        pacer = Pacer(Budget("x", 1, 1))
        pacer.acquire()
        previous = signal.signal(signal.SIGALRM, told)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        started = time.monotonic()
        try:
            with pytest.raises(Told):
                pacer.acquire()
        finally:
            signal.signal(signal.SIGALRM, previous)
        assert time.monotonic() - started < 5
        assert pacer.try_acquire() > 50  # the lock is free, and nothing was counted


class TestPause:
    def test_nobody_sends_until_it_is_over(self, caplog):
        clock = Clock()
        pacer = Pacer(Budget("x", 100, 100), clock)
        pacer.acquire(clock.sleep)
        pacer.pause(20)
        pacer.pause(5)  # an earlier end doesn't shorten it
        assert 20 <= send(pacer, clock, 1)[0] - 1000 <= 21
        assert caplog.text.count("rate limit is reached although requests are paced") == 1

    @pytest.mark.parametrize("seconds", [61, 90])
    def test_an_ordinary_minute_is_waited_for_also_where_clocks_differ(self, seconds):
        for _ in range(20):
            clock = Clock()
            pacer = Pacer(Budget("x", 100, 100), clock)
            error = RateLimitError(429, "x", seconds)
            assert is_worth_another_try(error)
            pacer.pause(error.retry_after)
            assert seconds <= send(pacer, clock, 1)[0] - 1000 <= seconds + 0.5

    def test_a_wait_that_is_too_long_to_hold_a_worker_is_handed_to_airflow(self):
        clock = Clock()
        pacer = Pacer(Budget("x", 100, 100), clock)
        pacer.pause(600)
        with pytest.raises(RateLimitError, match="another 600 s, so no more is sent") as raised:
            pacer.acquire(clock.sleep)
        assert raised.value.retry_after == pytest.approx(600, abs=1)
        assert clock.now == 1000

    def test_an_absurd_wait_ends_after_an_hour(self):
        clock = Clock()
        pacer = Pacer(Budget("x", 100, 100), clock)
        pacer.pause(1e12)
        clock.sleep(3601)
        assert pacer.try_acquire() == 0
