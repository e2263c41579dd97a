"""What a batch does next, and when it stops: decisions that neither send nor wait."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from splashify_provider.bulk.assignment import Assignment, AssignmentOutcome, reworded
from splashify_provider.client import is_worth_another_try, retry_delay, too_long_a_wait
from splashify_provider.exceptions import (
    AuthenticationError,
    BadRequestError,
    PermissionDeniedError,
    RateLimitError,
    SplashifyConfigurationError,
    SplashifyError,
)
from splashify_provider.rate_limit import LONGEST_WAIT, WINDOW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from splashify_provider.rate_limit import RateLimiter

Answer = str | BaseException

LONGEST_LIMITED = 2 * WINDOW
"""Seconds of nothing but 429s after which a batch stops: a worker is not held for a limit that lasts."""

_REFUSED_KEY = (AuthenticationError, PermissionDeniedError)
# 400s that concern a single row prove that key, address and service are fine. (Not 404 or 405: the address is wrong.)
_ABOUT_ONE_ROW = ("conversation_not_found", "agent_not_found", "agent_inactive")
_STATUS_ABOUT_ONE_ROW = (400, 422)


@dataclass(eq=False)
class Job:
    """An assignment on its way."""

    item: Assignment
    attempts: int = 0  # that failed, without 429s
    refusals: int = 0  # 429s
    not_before: float = -math.inf
    error: SplashifyError | None = None  # the last one


class Decisions:
    """Says what to send next, what an answer means, and when to stop; see :func:`~.sender.assign_many`."""

    def __init__(
        self,
        limiter: RateLimiter,
        *,
        max_attempts: int,
        max_in_flight: int,
        max_consecutive_failures: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limiter, self._clock = limiter, clock
        self._max_attempts, self._max_in_flight = max_attempts, max_in_flight
        self._max_consecutive_failures = max_consecutive_failures
        self._next: Job | None = None  # read, but not sent yet
        self._is_exhausted = False
        self._again: list[Job] = []
        self._in_flight: set[str] = set()  # numbers
        self._not_before = -math.inf  # says the limiter
        self._failures = 0
        self._limited_since: float | None = None
        self._stopped_by: SplashifyError | None = None
        self._stopped_at = 0

    @property
    def is_finished(self) -> bool:
        """Whether nothing is under way, and nothing will be."""
        nothing_left = self._is_exhausted and self._next is None and not self._again
        return not self._in_flight and (self._stopped_by is not None or nothing_left)

    @property
    def wants_a_row(self) -> bool:
        """Whether the next row could be sent."""
        has_room = len(self._in_flight) + len(self._again) < self._max_in_flight
        return has_room and self._next is None and not self._is_exhausted and self._stopped_by is None

    @property
    def seconds_to_wait(self) -> float:
        """Seconds until :meth:`next_job` may say something else without an answer."""
        now = self._clock()
        moments = [self._not_before, *(job.not_before for job in self._again)]
        return min((moment - now for moment in moments if moment > now), default=math.inf)

    def take(self, item: Assignment | None) -> None:
        """Take in the next row; None if there are no more."""
        self._next, self._is_exhausted = (Job(item) if item else None), item is None

    def next_job(self) -> Job | None:
        """Return what is to be sent now, counted by the limiter; None if nothing is."""
        now = self._clock()
        if now < self._not_before or (job := self._candidate(now)) is None:
            return None
        if wait := self._limiter.try_acquire():
            self._not_before = now + wait
            if wait > LONGEST_WAIT:
                self._stop(job.item, too_long_a_wait(wait))
            return None
        if job is self._next:
            self._next = None
        else:
            self._again.remove(job)
        self._in_flight.add(job.item.user_phone_number)
        return job

    def _candidate(self, now: float) -> Job | None:
        if self._stopped_by:
            return None
        # One at a time finds the end of a shared key's window by one refusal, not by many.
        if self._in_flight and self._limiter.is_contended:
            return None
        for job in self._again:
            if job.not_before <= now:
                return job
        if self._next is None:
            return None
        number = self._next.item.user_phone_number
        is_busy = number in self._in_flight or any(job.item.user_phone_number == number for job in self._again)
        return None if is_busy else self._next

    def settle(self, job: Job, answer: Answer) -> AssignmentOutcome | None:
        """Return an assignment's outcome; None if it is to be tried again. Raise what is no answer of Splashify's."""
        self._in_flight.discard(job.item.user_phone_number)
        if not isinstance(answer, RateLimitError):
            self._limited_since = None
        if isinstance(answer, str):
            return self.last_word(job, answer)
        if not isinstance(answer, SplashifyError) or isinstance(answer, SplashifyConfigurationError):
            raise answer
        job.error = answer.with_traceback(None)
        if isinstance(answer, RateLimitError):  # the limiter holds everybody back
            self._stop_if_it_lasts(job, answer)
            may_try_again = True
        else:
            job.attempts += 1
            job.not_before = self._clock() + retry_delay(job.attempts, answer)
            may_try_again = job.attempts < self._max_attempts
        if may_try_again and is_worth_another_try(answer):
            self._again.append(job)
            return None
        return self.last_word(job, answer)

    def _stop_if_it_lasts(self, job: Job, error: RateLimitError) -> None:
        now = self._clock()
        self._limited_since = now if self._limited_since is None else self._limited_since
        if (seconds := now - self._limited_since) >= LONGEST_LIMITED:
            text = f"For {seconds:.0f} s Splashify has answered nothing but 429. The last: {error.reason}"
            self._stop(job.item, reworded(error, text))

    def last_word(self, job: Job, answer: str | SplashifyError) -> AssignmentOutcome:
        """Return the outcome of an assignment that is not tried again."""
        if isinstance(answer, str):
            self._failures = 0
            return job.item.ended("assigned", answer)
        is_about_this_row = answer.outcome in _ABOUT_ONE_ROW or (
            isinstance(answer, BadRequestError) and answer.status_code in _STATUS_ABOUT_ONE_ROW
        )
        self._failures = 0 if is_about_this_row else self._failures + 1
        is_long_wait = isinstance(answer, RateLimitError) and not is_worth_another_try(answer)
        if is_long_wait or isinstance(answer, _REFUSED_KEY):
            self._stop(job.item, answer)
        elif self._failures >= self._max_consecutive_failures:
            text = (
                f"{self._failures:,} failures in a row (max_consecutive_failures={self._max_consecutive_failures}). "
                f"The last: {answer.reason}"
            )
            self._stop(job.item, reworded(answer, text))
        else:
            return job.item.ended(answer.outcome, answer.message, answer)
        return job.item.ended(answer.outcome, answer.message, answer, self._stopped_by)

    def _stop(self, item: Assignment, error: SplashifyError) -> None:
        # A refused key matters more than what failed before it was found out: no retry helps.
        if self._stopped_by is None or (isinstance(error, _REFUSED_KEY) and self._stopped_by.retryable):
            self._stopped_by, self._stopped_at = error, item.position

    def left_out(self, rows: Iterator[Assignment | AssignmentOutcome]) -> Iterator[AssignmentOutcome]:
        """Return the outcomes of what remains after a stop, rows that have not been read included."""
        stop = self._stopped_by
        if stop is None:
            return
        for job in self._again:
            error = job.error or stop
            yield job.item.ended(error.outcome, error.message, error, stop)
        text = f"Not attempted: the batch was stopped at position {self._stopped_at} ({type(stop).__name__})."
        for item in itertools.chain([self._next.item] if self._next else [], rows):
            yield item.ended("not_attempted", text, stop, stop) if isinstance(item, Assignment) else item
