"""Pacing: everything that uses one API key keeps to one budget, in this process or, through Redis, in all of them."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pyrate_limiter import InMemoryBucket, Rate, RateItem

from splashify_provider.exceptions import RateLimitError
from splashify_provider.redaction import quote

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)
monotonic = time.monotonic

MEMORY = "memory://"
# Splashify counts requests per minute (settings/developer). Shorter only in tests and benchmarks.
WINDOW = 60.0
# We count when a request leaves, Splashify when it arrives: 61 s of ours are 60 of theirs, unless connecting takes more
# than a second. Then what is in flight at that time may arrive within the next 60.
_MARGIN = 61 / 60
# One whole window of the vendor's limit, and half of one for a date by another clock, rounding and margins. Longer
# waits are Airflow's: they would hold a worker slot for nothing.
LONGEST_WAIT = 90.0
# Processes that count for themselves were told the same wait: by up to so much apart, they don't meet again.
_APART = 0.5
# What one answer may stop everything else that uses the key for, at most: the wait is read from outside.
_LONGEST_PAUSE = 3600.0
_STORE_TIMEOUT = 2.0
_STORE_DOWN_FOR = 30.0


@dataclass(frozen=True)
class Budget:
    """What may be sent with one key.

    :param name: Stands for key and base URL, and tells neither.
    :param requests_per_minute: At most so many in any 60 seconds.
    :param burst: At most so many of them at once; the others follow evenly, in groups of this size.
    :param storage: Where it is counted: ``memory://`` or ``redis://…``. Not part of the repr: it may carry a password.
    """

    name: str
    requests_per_minute: int
    burst: int
    storage: str = field(default=MEMORY, repr=False)

    def rates(self) -> list[Rate]:
        """Give the windows that hold at the same time: the minute, and the burst's share of it.

        :return: The rates, as pyrate-limiter takes them.
        """
        minute = WINDOW * 1000 * _MARGIN
        rates = [Rate(self.requests_per_minute, round(minute))]
        share = int(minute * self.burst / self.requests_per_minute)
        if self.burst < self.requests_per_minute and share:  # less than a millisecond is no pace to keep
            rates.insert(0, Rate(self.burst, share))
        return rates


class Pacer:
    """The door every request of one key goes through.

    Counted in memory always, and in Redis where that is the budget's storage: while Redis is away, this process
    goes on by what it has sent itself.

    :param budget: What may be sent.
    :param clock: Gives the time in seconds, never going backwards.
    """

    def __init__(self, budget: Budget, clock: Callable[[], float] | None = None) -> None:
        self._budget = budget
        self._clock = clock or (lambda: monotonic())
        self._lock = threading.Lock()
        self._sent = InMemoryBucket(budget.rates())
        self._paused_until = self._full_until = -math.inf
        self._store: _Store | None = None
        self._store_is_down_until = 0.0

    @property
    def wait(self) -> float:
        """Seconds until another request may be sent, as was said last; 0 if that is now."""
        return max(0.0, self._full_until - self._clock())

    def seconds_for(self, count: int) -> float:
        """Say how long so many more requests take at least, if nobody else sends any.

        :param count: How many.
        :return: Seconds: the present wait, and what has to pass between bursts.
        """
        burst = self._budget.burst
        return self.wait + WINDOW * burst / self.requests_per_minute * (math.ceil(count / burst) - 1)

    @property
    def requests_per_minute(self) -> int:
        """How many may be sent in any 60 seconds."""
        return self._budget.requests_per_minute

    def narrow(self, budget: Budget) -> None:
        """Keep to another budget of the same key as well: who shares a key can't be asked to know of the others.

        :param budget: What may be sent, too. Its storage counts where there was none.
        """
        with self._lock:
            lower = replace(
                self._budget,
                requests_per_minute=min(self._budget.requests_per_minute, budget.requests_per_minute),
                burst=min(self._budget.burst, budget.burst),
                storage=budget.storage if self._budget.storage == MEMORY else self._budget.storage,
            )
            if lower != self._budget:
                self._budget, self._store = lower, None  # the store is set up by the budget
                self._sent.rates = lower.rates()

    def acquire(self, sleep: Callable[[float], object] = time.sleep) -> None:
        """Wait until one request may be sent, and count it.

        :param sleep: Waits, given seconds.
        :raises RateLimitError: If Splashify has asked for a wait that is too long to hold a worker for.
        """
        while wait := self.try_acquire():
            sleep(wait)

    def try_acquire(self) -> float:
        """Count one request if it may be sent now.

        :return: 0 if it may, else the seconds after which to ask again.
        :raises RateLimitError: If Splashify has asked for a wait that is too long to hold a worker for.
        """
        with self._lock:
            now = self._clock()
            wait = self._take(now)
            self._full_until = now + wait
            return _checked(wait)

    def _take(self, now: float) -> float:
        if pause := max(0.0, self._paused_until - now):
            return pause
        item = RateItem("", int(now * 1000))
        if not self._sent.put(item):
            self._sent.leak(item.timestamp)
            milliseconds = self._sent.waiting(item)
            assert isinstance(milliseconds, int)  # noqa: S101 - not the async kind
            return max(1, milliseconds) / 1000.0
        if self._sent.count() > 2 * self._budget.requests_per_minute:
            self._sent.leak(item.timestamp)
        if wait := self._with_store(now, lambda store: store.take()):
            self._sent.items.pop()  # it was counted, but will not be sent
        return wait

    @property
    def is_contended(self) -> bool:
        """Whether Splashify has refused a request in this window or the one before: others use the key, too."""
        return self._clock() < self._paused_until + WINDOW

    def pause(self, seconds: float) -> None:
        """Let nobody send for a while: Splashify has said that the key's limit is reached.

        :param seconds: How long, from now.
        """
        with self._lock:
            now = self._clock()
            until = now + min(seconds, _LONGEST_PAUSE)
            if until > self._paused_until + 1:
                log.warning(
                    "Splashify's rate limit is reached although requests are paced (something else uses the key; if "
                    "it is another task, see rate_limit_storage): everything here that uses it waits %.0f s.",
                    until - now,
                )
            self._paused_until = max(self._paused_until, until + random.uniform(0, _APART))  # noqa: S311
            self._with_store(now, lambda store: store.pause(until - now))

    def _with_store(self, now: float, call: Callable[[_Store], float]) -> float:
        """Ask the shared storage, if there is one and it works. Return the seconds to wait."""
        if self._budget.storage == MEMORY or now < self._store_is_down_until:
            return 0.0
        try:
            if self._store is None:
                self._store = _Store(self._budget)
            wait = call(self._store)
        except Exception as error:  # whatever it is, also of the options in its address: it stops nobody
            self._store = None
            if not self._store_is_down_until:
                log.warning(
                    "The rate limit storage at %s can't be used (%s: %s). This worker now paces itself alone, so "
                    "several together may exceed the key's limit until it is back.",
                    urlsplit(self._budget.storage).hostname,
                    type(error).__name__,
                    quote(error),
                )
            self._store_is_down_until = now + _STORE_DOWN_FOR
            return 0.0
        if self._store_is_down_until:  # only now: it may connect and refuse to be written to
            log.info("The rate limit storage is back; workers share one budget again.")
            self._store_is_down_until = 0.0
        return wait


# Ours, not pyrate-limiter's: reading Redis's clock and counting must be one step, or what others count between the
# two isn't seen. Rates are limit and milliseconds, the longest last. What a clock that was set back makes later than
# now counts as sent now, and a pause becomes no longer than it was said to be.
_TAKE = """
local pause = redis.call('PTTL', KEYS[2])
if pause > 0 then
  local said = tonumber(redis.call('GET', KEYS[2]))
  if pause <= said then return pause end
  redis.call('PEXPIRE', KEYS[2], said)
  return said
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local later = '(' .. string.format('%d', now)
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], later, '+inf')) do
  redis.call('ZADD', KEYS[1], now, member)
end
for i = 2, #ARGV, 2 do
  local limit, interval = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  local oldest = redis.call('ZRANGE', KEYS[1], -limit, -limit, 'WITHSCORES')[2]
  if oldest then
    local wait = tonumber(oldest) + interval + 1 - now
    if wait > 0 then return wait end
  end
end
local longest = tonumber(ARGV[#ARGV])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, '(' .. string.format('%d', now - longest))
redis.call('PEXPIRE', KEYS[1], longest + 1)
return 0
"""
_PAUSE = """
if tonumber(ARGV[1]) > redis.call('PTTL', KEYS[1]) then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[1]) end
"""


class _Store:
    """One key's budget in Redis, timed by Redis: workers' clocks may differ."""

    def __init__(self, budget: Budget) -> None:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        redis = Redis.from_url(
            budget.storage,
            socket_timeout=_STORE_TIMEOUT,
            socket_connect_timeout=_STORE_TIMEOUT,
            retry=Retry(NoBackoff(), 1),
        )
        # In braces, so that a cluster keeps both in one place.
        self._sent_key, self._pause_key = (f"splashify:{{{budget.name}}}:{what}" for what in ("sent", "pause"))
        self._rates = [number for rate in budget.rates() for number in (rate.limit, rate.interval)]
        self._take, self._pause = redis.register_script(_TAKE), redis.register_script(_PAUSE)

    def take(self) -> float:
        """Count one request if it may be sent now. Return 0, or the seconds after which to ask again."""
        keys = [self._sent_key, self._pause_key]
        return float(self._take(keys=keys, args=[uuid.uuid4().hex, *self._rates])) / 1000

    def pause(self, seconds: float) -> float:
        """Let nobody send for so many seconds, or for longer if that was said before."""
        self._pause(keys=[self._pause_key], args=[max(1, int(seconds * 1000))])
        return 0.0


def _checked(wait: float) -> float:
    """Hand a wait that is too long for a worker to Airflow. No budget of our own makes one: only Splashify does."""
    if wait > LONGEST_WAIT + _APART:
        raise RateLimitError(
            429,
            f"Splashify has said that the rate limit of this key is reached for another {wait:.0f} s, so no more "
            "is sent until then. Give the task retries with a retry_delay that outlasts it, or clear it later.",
            wait,
        )
    return wait


_pacers: dict[str, Pacer] = {}
_pacers_lock = threading.Lock()


def pacer_for(budget: Budget) -> Pacer:
    """Give the one pacer that this process has for a key; where budgets for it differ, the lowest holds for all.

    :param budget: What may be sent.
    :return: The pacer.
    """
    with _pacers_lock:
        pacer = _pacers.setdefault(budget.name, Pacer(budget))
        pacer.narrow(budget)
        return pacer


class RateLimiter(Pacer):
    """A pacer that says how long to wait instead of raising."""

    def try_acquire(self) -> float:  # noqa: D102
        try:
            return super().try_acquire()
        except RateLimitError as error:
            return error.retry_after or 0.0
