"""Batches on a clock that moves only where the batch would wait."""

from __future__ import annotations

import heapq
import itertools
from types import SimpleNamespace

from splashify_provider.bulk.assignment import Assignment
from splashify_provider.bulk.decisions import Decisions
from splashify_provider.bulk.sender import send
from splashify_provider.exceptions import RateLimitError
from splashify_provider.rate_limit import Budget, RateLimiter
from tests.conftest import ADA, number


def client(send_assignment=lambda *_: "assigned", *, max_attempts=3, per_minute=100_000, name="a key"):
    """Give as much of a client as a batch needs. It takes numbers as they are."""
    return SimpleNamespace(
        settings=SimpleNamespace(max_attempts=max_attempts, budget=SimpleNamespace(name=name)),
        limiter=RateLimiter(Budget(name, per_minute, per_minute)),
        send_assignment=send_assignment,
        normalize_phone_number=str,
        fingerprint=lambda text: f"{name} {text}".encode()[:64],
    )


class Simulation:
    """A batch, a limiter, and a Splashify that answers after a while.

    ``answer`` is called with an assignment and its agent when its request arrives; what it returns or raises is the
    answer.
    """

    def __init__(self, answer, *, latency=0.1, per_minute=100_000, **limits):
        self._answer, self._latency, self._per_minute, self._limits = answer, latency, per_minute, limits
        self.now, self.sent, self.most_in_flight, self.ticks = 1000.0, [], 0, []
        self.asked, self.on_tick = [], self.ticks.append
        self.limiter = RateLimiter(Budget("simulated", per_minute, per_minute), lambda: self.now)
        self._arriving, self._order = [], itertools.count()

    def run(self, rows):
        limits = {"max_attempts": 3, "max_in_flight": 8, "max_consecutive_failures": 10, **self._limits}
        decisions = Decisions(self.limiter, clock=lambda: self.now, **limits)
        return list(send(iter(rows), decisions, self, lambda: self.on_tick(self.now)))

    @property
    def sent_at(self):
        return [moment for moment, _ in self.sent]

    # What Exchanges does with threads.
    def start(self, job):
        self.sent.append((self.now, job.item.position))
        self.asked.append((self.now, job.agent))
        try:
            answer = self._answer(job.item, job.agent)
        except Exception as error:
            answer = error
        heapq.heappush(self._arriving, (self.now + self._latency, next(self._order), job, answer))
        self.most_in_flight = max(self.most_in_flight, len(self._arriving))

    def answer(self, seconds=0.0):
        if not self._arriving or self._arriving[0][0] > self.now + seconds:
            self.now += seconds
            return None
        self.now, _, job, answer = heapq.heappop(self._arriving)
        if isinstance(answer, RateLimitError):
            job.refusals += 1
            self.limiter.pause(answer.retry_after or min(8, 2 ** (job.refusals - 1)))
        return job, answer

    def late_answers(self, _):
        return []

    def end(self):
        pass


class Key:
    """Splashify's limit of a key: so many requests in any minute, some of which others use up."""

    def __init__(self, limit, *, others=lambda _: 0, retry_after=None):
        self._limit, self._others, self._retry_after = limit, others, retry_after
        self.simulation, self.accepted, self.refused = None, [], 0

    def __call__(self, *_):
        now = self.simulation.now
        self.accepted = [moment for moment in self.accepted if moment > now - 60]
        if len(self.accepted) + self._others(now) >= self._limit:
            self.refused += 1
            wait = (self.accepted[0] + 60 - now) if self.accepted else 60.0
            raise RateLimitError(429, "Rate limit reached.\nWait.", wait if self._retry_after is None else None)
        self.accepted.append(now)
        return "assigned"


def assignments(*indexes, agent=ADA):
    """Give checked rows for the conversations of a team."""
    return [Assignment(position, number(index), agent) for position, index in enumerate(indexes, 1)]
