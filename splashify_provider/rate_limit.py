"""Rate limiting: all that uses one API key keeps to one budget, in this process or, through Redis, in all of them."""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from splashify_provider.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

MEMORY = "memory://"
# Splashify takes so many requests in so many seconds with one key (settings/developer). Tests shorten the window.
VENDOR_LIMIT = 100
WINDOW = 60.0
# One window, and half of one for a date by another clock, rounding and margins. Longer waits are left to Airflow: they
# would hold a worker slot for nothing.
LONGEST_WAIT = 90.0
# Caps on values that come from the server: a day is longer than any limit of requests per minute, and no single answer
# stops everything else that uses the key for more than an hour.
LONGEST_RETRY_AFTER = 86_400.0
LONGEST_PAUSE = 3_600.0
# We count when a request leaves, Splashify when it arrives: 61 s of ours are 60 of theirs, unless connecting takes more
# than a second. Then what is in flight at that time may arrive within the next 60.
_MARGIN = 61 / 60
# Processes that count for themselves were told the same wait: up to so many seconds apart, they don't meet again.
_JITTER = 0.5
_STORE_TIMEOUT = 2.0
_STORE_DOWN_FOR = 30.0


class SlidingWindow:
    """At most so many requests in any period of such a length. Times are the caller's, in seconds, and never decrease.

    :param rates: Limits and periods (seconds) that hold at the same time, the longest period first.
    """

    def __init__(self, *rates: tuple[int, float]) -> None:
        self.rates = rates
        self._times: deque[float] = deque()

    def used(self, now: float) -> int:
        """Return how many requests were counted in the longest period that ends now."""
        while self._times and self._times[0] <= now - self.rates[0][1]:
            self._times.popleft()
        return len(self._times)

    def wait(self, now: float) -> float:
        """Return the seconds until one more fits; 0.0 if it does now."""
        used = self.used(now)
        return max([0.0, *(self._times[-limit] + period - now for limit, period in self.rates if used >= limit)])

    def add(self, now: float) -> None:
        """Count a request."""
        self._times.append(now)

    def take_back(self, then: float) -> None:
        """Forget a request that was counted then and not sent."""
        if then in self._times:
            self._times.remove(then)


@dataclass(frozen=True)
class Budget:
    """What may be sent with one key.

    :param name: Stands for key and base URL without revealing either.
    :param requests_per_minute: At most so many in any 60 seconds.
    :param burst: At most so many of them at once; the others follow evenly, in groups of this size.
    :param storage: Where requests are counted: ``memory://`` or ``redis://…``. Not part of the repr: it may carry a
        password.
    """

    name: str
    requests_per_minute: int
    burst: int
    storage: str = field(default=MEMORY, repr=False)

    def rates(self) -> tuple[tuple[int, float], ...]:
        """Return limits and periods that hold at the same time: the minute's, and the burst's share of it."""
        minute = WINDOW * _MARGIN
        return (self.requests_per_minute, minute), (self.burst, minute * self.burst / self.requests_per_minute)


class RateLimiter:
    """Limits the requests of one key; safe to use from several threads.

    Requests are always counted in memory, and in Redis where that is the budget's storage: while Redis fails, this
    process goes on by what it has sent itself.

    :param budget: What may be sent.
    :param clock: Gives the time in seconds, never going backwards.
    """

    def __init__(self, budget: Budget, clock: Callable[[], float] = time.monotonic) -> None:
        self._budget, self._clock = budget, clock
        self._lock = threading.Lock()  # never held while Redis is asked
        self._sent, self._store = SlidingWindow(*budget.rates()), _Store(budget)
        self._pace = [budget.requests_per_minute, budget.burst]  # the lowest of all who share the storage
        self._paused_until = self._full_until = -math.inf

    @property
    def wait(self) -> float:
        """Seconds until another request may be sent, as far as is known; 0.0 if that is now."""
        return max(0.0, self._full_until - self._clock(), self._paused_until - self._clock())

    @property
    def requests_per_minute(self) -> int:
        """How many may be sent in any 60 seconds."""
        return self._pace[0]

    @property
    def is_contended(self) -> bool:
        """Whether Splashify has refused a request in this window or the one before: others use the key, too."""
        return self._clock() < self._paused_until + WINDOW

    def seconds_for(self, count: int) -> float:
        """Return the seconds that so many more requests take at least, if nobody else sends any.

        :param count: Requests.
        """
        per_minute, burst = self._pace
        return self.wait + WINDOW * burst / per_minute * (math.ceil(count / burst) - 1)

    def tighten(self, budget: Budget) -> None:
        """Keep to another budget of the same key as well: those who share a key may not know of each other.

        :param budget: What may be sent, too. Its storage counts if there was none.
        """
        with self._lock:
            held = self._budget
            pace = [min(held.requests_per_minute, budget.requests_per_minute), min(held.burst, budget.burst)]
            storage = budget.storage if held.storage == MEMORY else held.storage
            self._budget, self._pace = Budget(held.name, pace[0], pace[1], storage), pace
            self._sent.rates = self._budget.rates()
            if storage != held.storage:
                self._store = _Store(self._budget)

    def try_acquire(self) -> float:
        """Count one request if it may be sent now. Never raise and never sleep.

        :return: 0.0 if it may, else the seconds after which to ask again.
        """
        with self._lock:
            now = self._clock()
            wait = max(self._paused_until - now, self._sent.wait(now))
            if not wait:
                self._sent.add(now)
        if not wait:
            wait, *self._pace = self._store.ask(now, self._budget)
            if wait:
                with self._lock:
                    self._sent.take_back(now)
        self._full_until = now + wait
        return wait

    def pause(self, seconds: float) -> None:
        """Send nothing for a while: Splashify has said that the key's limit is reached.

        :param seconds: How long, from now.
        """
        seconds = min(seconds, LONGEST_PAUSE)
        # A wait that may be waited for doesn't become too long by the jitter.
        jitter = random.uniform(0, min(_JITTER, abs(LONGEST_WAIT - seconds)))  # noqa: S311
        with self._lock:
            now = self._clock()
            is_news = now + seconds > self._paused_until + 1
            self._paused_until = max(self._paused_until, now + seconds + jitter)
        if is_news:
            log.warning(
                "Splashify's rate limit is reached although requests are paced (something else uses the key; if it is "
                "another task, see rate_limit_storage): everything here that uses it waits %.0f s.",
                seconds,
            )
        self._store.ask(now, self._budget, pause=seconds)


# One script: reading Redis's clock and counting must be one step, or what others count between the two isn't seen.
# Keys: sent, pause, limit, burst. Arguments: an id, the window (ms), limit, burst, how long to pause (ms) if at all.
# The lowest limit in use holds for all: who has it keeps it alive, and it ends two windows after they last asked.
# If Redis's clock was set back, times later than now count as now, and neither a pause nor a limit lasts longer by it.
_SCRIPT = """
local sent, window, asked = KEYS[1], tonumber(ARGV[2]), tonumber(ARGV[5])
local function lowest(key, own)
  local held = tonumber(redis.call('GET', key) or own)
  if held < own and redis.call('PTTL', key) <= 2 * window then return held end
  redis.call('SET', key, own, 'PX', 2 * window)
  return own
end
local limit, burst = lowest(KEYS[3], tonumber(ARGV[3])), lowest(KEYS[4], tonumber(ARGV[4]))
local pause = redis.call('PTTL', KEYS[2])
local said = pause > 0 and math.min(pause, tonumber(redis.call('GET', KEYS[2]))) or 0
if asked > said or pause > said then redis.call('SET', KEYS[2], math.max(asked, said), 'PX', math.max(asked, said)) end
if asked > 0 or said > 0 then return {math.max(asked, said), limit, burst} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, later in ipairs(redis.call('ZRANGEBYSCORE', sent, string.format('(%d', now), '+inf')) do
  redis.call('ZADD', sent, now, later)
end
for _, rate in ipairs({{limit, window}, {burst, math.floor(window * burst / limit)}}) do
  local oldest = redis.call('ZRANGE', sent, -rate[1], -rate[1], 'WITHSCORES')[2]
  local wait = oldest and tonumber(oldest) + rate[2] - now or 0
  if wait > 0 then return {wait, limit, burst} end
end
redis.call('ZADD', sent, now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', sent, 0, string.format('(%d', now - window))
redis.call('PEXPIRE', sent, window)
return {0, limit, burst}
"""


class _Store:
    """One key's counts in Redis, timed by Redis: workers' clocks may differ. Without Redis it refuses nothing."""

    def __init__(self, budget: Budget) -> None:
        self._address = budget.storage
        # In braces, so that a cluster keeps them in one place.
        self._keys = [f"splashify:{{{budget.name}}}:{what}" for what in ("sent", "pause", "limit", "burst")]
        self._script: Any = None
        self._down_until = -math.inf

    def ask(self, now: float, budget: Budget, *, pause: float = 0.0) -> list[Any]:
        """Count one request if it may be sent now; or let nobody send for so many seconds, or longer if that was said.

        :return: The seconds to wait, and the limit and burst that hold for all.
        """
        own = [budget.requests_per_minute, budget.burst]
        if self._address == MEMORY or now < self._down_until:
            return [0.0, *own]
        was_down = self._down_until > -math.inf
        try:
            self._script = self._script or self._connect()
            arguments = [os.urandom(8).hex(), round(WINDOW * _MARGIN * 1000), *own, math.ceil(pause * 1000)]
            wait, *lowest = self._script(keys=self._keys, args=arguments)
        except Exception as error:  # any store failure falls back to local counting
            self._down_until = now + _STORE_DOWN_FOR
            if not was_down:
                self._warn(error)
            return [0.0, *own]
        self._down_until = -math.inf
        if was_down:  # not said earlier: it may accept connections and refuse to be written to
            log.info("The rate limit storage is back; workers share one budget again.")
        return [wait / 1000, *lowest]

    def _connect(self) -> Any:
        from redis import ConnectionPool, Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        timeouts = {"socket_timeout": _STORE_TIMEOUT, "socket_connect_timeout": _STORE_TIMEOUT}
        pool = ConnectionPool.from_url(self._address, retry=Retry(NoBackoff(), 1), **timeouts)
        # Not Redis.from_url: that one locks its pool when it is collected, which would hang in a fork.
        return Redis(connection_pool=pool).register_script(_SCRIPT)

    def _warn(self, error: Exception) -> None:
        address = urlsplit(self._address)
        # A server that doesn't know AUTH repeats the password.
        password = unquote(address.password or "") or parse_qs(address.query).get("password", [""])[0]
        log.warning(
            "The rate limit storage at %s can't be used (%s: %s). This worker now paces itself alone, so several "
            "together may exceed the key's limit until it is back.",
            address.hostname,
            type(error).__name__,
            redact(error, password),
        )


_limiters: dict[str, RateLimiter] = {}
_limiters_lock = threading.Lock()


def limiter_for(budget: Budget) -> RateLimiter:
    """Return the one limiter that this process has for a key; where budgets for it differ, the lowest holds for all.

    :param budget: What may be sent.
    """
    with _limiters_lock:
        limiter = _limiters.setdefault(budget.name, RateLimiter(budget))
        limiter.tighten(budget)
        return limiter


def _after_fork() -> None:
    """Replace in the child what the parent's threads, which don't exist in it, may hold: locks and connections."""
    global _limiters_lock
    _limiters_lock = threading.Lock()
    for limiter in _limiters.values():
        limiter._lock, limiter._store = threading.Lock(), _Store(limiter._budget)


os.register_at_fork(after_in_child=_after_fork)
