"""What a batch does next, and when it stops: decisions that neither send nor wait."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import TYPE_CHECKING

from splashify_provider.bulk.agents import MOST_WAITING, Agents, Job
from splashify_provider.bulk.assignment import AGENT_REFUSED, Assignment, AssignmentOutcome, reworded
from splashify_provider.client import is_worth_another_try, retry_delay, too_long_a_wait
from splashify_provider.exceptions import (
    AuthenticationError,
    BadRequestError,
    PermissionDeniedError,
    RateLimitError,
    SplashifyConfigurationError,
    SplashifyConnectionError,
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
        self._agents = Agents()
        self._next: Job | None = None  # read, but its number has a request before it
        self._is_exhausted = False
        self._again: list[Job] = []
        self._in_flight = 0
        self._numbers: set[str] = set()  # of all that is not ended, but the next
        self._ended: deque[AssignmentOutcome] = deque()
        self._not_before = -math.inf  # says the limiter
        self._failures = 0
        self._limited_since: float | None = None
        self._stopped_by: SplashifyError | None = None
        self._stopped_at = 0

    @property
    def is_finished(self) -> bool:
        """Whether nothing is under way, and nothing will be."""
        nothing_left = self._is_exhausted and not (self._next or self._again or self._agents.waiting)
        return not self._in_flight and (self._stopped_by is not None or nothing_left)

    @property
    def _has_room(self) -> bool:
        return self._in_flight + len(self._again) < self._max_in_flight

    @property
    def wants_a_row(self) -> bool:
        """Whether the next row could be sent, and none that waits can."""
        is_open = not self._is_exhausted and self._stopped_by is None and self._next is None
        can_wait = self._agents.waiting < MOST_WAITING
        return is_open and can_wait and self._has_room and self._agents.first() is None

    @property
    def seconds_to_wait(self) -> float:
        """Seconds until :meth:`next_job` may say something else without an answer."""
        now = self._clock()
        moments = [self._not_before, *(job.not_before for job in self._again)]
        return min((moment - now for moment in moments if moment > now), default=math.inf)

    def take(self, item: Assignment | None) -> None:
        """Take in the next row; None if there are no more."""
        self._is_exhausted = item is None
        self._next = Job(item) if item else None
        self._admit()

    def _admit(self) -> None:
        """Let the row that was read stand in line, once nothing of its number is before it."""
        if self._next and self._next.item.user_phone_number not in self._numbers:
            job, self._next = self._next, None
            self._numbers.add(job.item.user_phone_number)
            self._line_up(job)

    def _line_up(self, job: Job) -> None:
        if outcome := self._agents.line_up(job):
            self._end(outcome)

    def _end(self, outcome: AssignmentOutcome) -> None:
        self._numbers.discard(outcome.user_phone_number)
        self._ended.append(outcome)

    def outcomes(self) -> Iterator[AssignmentOutcome]:
        """Return what has ended since the last time."""
        while self._ended:
            yield self._ended.popleft()

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
        if job in self._again:
            self._again.remove(job)
        self._agents.ask(job)
        self._in_flight += 1
        return job

    def _candidate(self, now: float) -> Job | None:
        if self._stopped_by:
            return None
        # One at a time finds the end of a shared key's window by one refusal, not by many.
        if self._in_flight and self._limiter.is_contended:
            return None
        for job in self._again:
            if job.not_before <= now and self._agents.may_be_asked(job.agent):
                return job
        return self._agents.first() if self._has_room else None

    def settle(self, job: Job, answer: Answer) -> None:
        """Take in an answer. What ends by it is among :meth:`outcomes`. Raise what is no answer of Splashify's."""
        self._in_flight -= 1
        if not isinstance(answer, RateLimitError):
            self._limited_since = None
        if isinstance(answer, AGENT_REFUSED) and job.agent is not None:
            self._failures = 0
            self._pass_over(job, answer.with_traceback(None))
        else:
            is_silent = isinstance(answer, SplashifyConnectionError)
            self._agents.answered(job, is_fine=isinstance(answer, str), is_silent=is_silent)
            if not isinstance(answer, (str, SplashifyError)) or isinstance(answer, SplashifyConfigurationError):
                raise answer
            if isinstance(answer, SplashifyError) and self._is_to_be_tried_again(job, answer):
                if self._agents.is_refused(job.agent):  # meanwhile
                    self._line_up(job)
                else:
                    self._again.append(job)
            else:
                self._end(self._last_word(job, answer))
        self._admit()

    def _pass_over(self, job: Job, error: SplashifyError) -> None:
        """Turn from a refused agent to who is next in line, with all rows that are for that agent."""
        waiting = self._agents.refuse(job, error)
        again = [each for each in self._again if self._agents.is_refused(each.agent)]
        self._again = [each for each in self._again if each not in again]
        for each in [job, *again, *waiting]:
            self._line_up(each)

    def _is_to_be_tried_again(self, job: Job, answer: SplashifyError) -> bool:
        job.error = answer.with_traceback(None)
        if isinstance(answer, RateLimitError):  # the limiter holds everybody back
            self._stop_if_it_lasts(job, answer)
            return is_worth_another_try(answer)
        job.attempts += 1
        job.not_before = self._clock() + retry_delay(job.attempts, answer)
        return job.attempts < self._max_attempts and is_worth_another_try(answer)

    def _stop_if_it_lasts(self, job: Job, error: RateLimitError) -> None:
        now = self._clock()
        self._limited_since = now if self._limited_since is None else self._limited_since
        if (seconds := now - self._limited_since) >= LONGEST_LIMITED:
            text = f"For {seconds:.0f} s Splashify has answered nothing but 429. The last: {error.reason}"
            self._stop(job.item, reworded(error, text))

    def _last_word(self, job: Job, answer: str | SplashifyError) -> AssignmentOutcome:
        """Return the outcome of an assignment that is not tried again."""
        if isinstance(answer, str):
            self._failures = 0
            return job.item.ended("released" if job.agent is None else "assigned", answer, refused=job.refused)
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
            return job.item.ended(answer.outcome, answer.message, answer, refused=job.refused)
        return job.item.ended(answer.outcome, answer.message, answer, self._stopped_by, job.refused)

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
            yield job.item.ended(error.outcome, error.message, error, stop, job.refused)
        text = f"Not attempted: the batch was stopped at position {self._stopped_at} ({type(stop).__name__})."
        for job in [*self._agents.left(), *filter(None, [self._next])]:
            yield job.item.ended("not_attempted", text, stop, stop, job.refused)
        for item in rows:
            yield item.ended("not_attempted", text, stop, stop) if isinstance(item, Assignment) else item
