"""Many assignments over one session: paced, a few in flight at once, an outcome for each, in bounded memory."""

from __future__ import annotations

import copy
import heapq
import itertools
import random
import threading
import time
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Literal

from splashify_provider.exceptions import (
    AgentInactiveError,
    AgentNotFoundError,
    AuthenticationError,
    BadRequestError,
    ConversationNotFoundError,
    PermissionDeniedError,
    RateLimitError,
    SplashifyAPIError,
    SplashifyConfigurationError,
    SplashifyError,
)
from splashify_provider.rate_limit import LONGEST_WAIT, RateLimiter

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

Outcome = Literal[
    "assigned",
    "conversation_not_found",
    "agent_not_found",
    "agent_inactive",
    "rejected",
    "invalid",
    "failed",
    "not_attempted",
]
_OUTCOMES: dict[type[SplashifyError], Outcome] = {
    ConversationNotFoundError: "conversation_not_found",
    AgentNotFoundError: "agent_not_found",
    AgentInactiveError: "agent_inactive",
}

_REFUSED_KEY = (AuthenticationError, PermissionDeniedError)
# Refusals of one row: they prove that key, address and service are fine. (Not 404 or 405: the address is wrong.)
_ABOUT_ONE_ROW = (400, 422)

# "Come again later" is not a failure, and with others on the key it may be said a few times; not for ever.
_MOST_429S = 20
MOST_IN_FLIGHT = 64
_SECONDS_BETWEEN_IDLE_CALLS = 1.0
_SECONDS_TO_JOIN = 1.0
_SECONDS_TO_WAIT_FOR_ANSWERS = 2.0  # of those under way when a batch is ended: Airflow kills a task after five


@dataclass(frozen=True)
class Assignment:
    """A row that has been checked and may be sent.

    :param position: Its place in the list, counted from 1.
    :param user_phone_number: The customer's number in the API's form. Not part of the repr.
    :param agent_email: Who shall have the conversation.
    """

    position: int
    user_phone_number: str = field(repr=False)
    agent_email: str


@dataclass(frozen=True)
class AssignmentOutcome:
    """What became of one assignment.

    :param position: Its place in the list, counted from 1.
    :param user_phone_number: The number as it was sent, else as it was given. Not part of the repr.
    :param agent_email: Who was to have the conversation; as it was given, where it is not an address.
    :param outcome: ``assigned``, ``conversation_not_found``, ``agent_not_found``, ``agent_inactive``, ``rejected``
        (any other answer that repeating won't change), ``invalid`` (nothing was sent), ``failed`` (waiting may heal
        it, but not within the attempts) or ``not_attempted`` (the batch was stopped before).
    :param message: Splashify's words if it was assigned, else what happened and what to do about it.
    :param error: The error behind any other outcome.
    :param stopped_by: Why the batch was stopped: on the outcome that stopped it, and on those it left out.
    """

    position: int
    user_phone_number: str = field(repr=False)
    agent_email: str
    outcome: Outcome
    message: str
    error: SplashifyError | None = field(default=None, repr=False)
    stopped_by: SplashifyError | None = field(default=None, repr=False)


def check_limits(max_in_flight: object, max_consecutive_failures: object) -> None:
    """Refuse what no batch can keep to.

    :param max_in_flight: See :class:`Batch`.
    :param max_consecutive_failures: See :class:`Batch`.
    :raises SplashifyConfigurationError: Naming the argument.
    """
    for name, value, most in (
        ("max_in_flight", max_in_flight, MOST_IN_FLIGHT),
        ("max_consecutive_failures", max_consecutive_failures, 1_000_000),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise SplashifyConfigurationError(f"{name} must be a whole number from 1 to {most:,}, not {value!r}.")


def retry_delay(attempt: int, error: BaseException | None) -> float:
    """Give the seconds to wait: a random, growing time, on top of what the server asked for.

    :param attempt: How many there have been.
    :param error: What the last one ended with.
    :return: Seconds. Random, so that many don't come back at once.
    """
    asked = getattr(error, "retry_after", None) or 0.0
    return float(asked) + min(8.0, 2.0 ** (attempt - 1)) + random.uniform(0, 1)  # noqa: S311


def is_worth_another_try(error: BaseException) -> bool:
    """Decide whether to repeat: waiting may heal it, and not for longer than a worker should be held.

    :param error: What the last attempt ended with.
    :return: The decision.
    """
    return isinstance(error, SplashifyError) and error.retryable and (error.retry_after or 0) <= LONGEST_WAIT


def too_long_a_wait(wait: float) -> RateLimitError:
    """Return the error for a wait that is too long for a worker. No budget of ours makes one: only Splashify does.

    :param wait: Seconds, above ``LONGEST_WAIT``.
    :return: The error.
    """
    return RateLimitError(
        429,
        f"Splashify has said that the rate limit of this key is reached for another {wait:.0f} s, so no more is sent "
        "until then.\nGive the task retries with a retry_delay that outlasts it, or clear it later.",
        wait,
    )


@dataclass
class _Job:
    item: Assignment
    attempts: int = 0
    refusals: int = 0  # 429s
    error: SplashifyError | None = None


class Batch:
    """One run over many assignments. The thread that iterates decides everything; the others only wait for answers.

    A number that comes again waits for its first answer, and everything after it waits too: rows are read in order, and
    one at most is held back. Who has the same numbers many times better leaves out all but the last of each before.

    :param post: Sends one assignment, given number and agent; returns Splashify's message or raises.
    :param pacer: Says when a request may be sent.
    :param max_attempts: How often one assignment is tried.
    :param max_in_flight: How many requests may be waiting for their answer at once.
    :param max_consecutive_failures: After so many failures in a row the batch stops. What Splashify refuses for one
        row's sake is none of them.
    :param on_idle: Called about once a second. What it raises ends the batch.
    """

    def __init__(
        self,
        post: Callable[[str, str], str],
        pacer: RateLimiter,
        *,
        max_attempts: int,
        max_in_flight: int,
        max_consecutive_failures: int,
        on_idle: Callable[[], object] | None,
    ) -> None:
        self._post, self._pacer, self._on_idle = post, pacer, on_idle or (lambda: None)
        self._max_attempts, self._max_in_flight = max_attempts, max_in_flight
        self._max_consecutive_failures = max_consecutive_failures
        self._next: _Job | None = None  # read, but not sent yet
        self._is_exhausted = False
        self._later: list[tuple[float, int, _Job]] = []  # to be tried again: when, a tie-breaker, what
        self._ties = itertools.count()
        self._busy: set[str] = set()  # numbers in flight or to be tried again: what comes next for them waits
        self._not_before = 0.0
        self._idle_at = time.monotonic() + _SECONDS_BETWEEN_IDLE_CALLS
        self._failures = 0
        self._stopped_by: SplashifyError | None = None
        self._stopped_at = 0
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[_Job, str | BaseException]] = SimpleQueue()
        self._in_flight = 0
        self._threads: list[threading.Thread] = []

    def run(self, items: Iterator[Assignment | AssignmentOutcome]) -> Generator[AssignmentOutcome, None, None]:
        """Send what is to be sent.

        :param items: Checked assignments, and the outcomes of those that failed the check; read as they are needed.
        :return: The outcome of each, in the order in which they are known.
        """
        try:
            while not self._is_finished():
                if outcome := self._step(items):
                    yield outcome
            yield from self._leave_out(items)
        except GeneratorExit:
            raise
        except BaseException:
            yield from self._late_answers(time.monotonic() + _SECONDS_TO_WAIT_FOR_ANSWERS)
            raise
        finally:
            self._end_threads()

    def _step(self, items: Iterator[Assignment | AssignmentOutcome]) -> AssignmentOutcome | None:
        """Do the next thing there is to do: what is known comes first, since it may say that nothing more goes."""
        now = time.monotonic()
        if now >= self._idle_at:
            self._idle_at = now + _SECONDS_BETWEEN_IDLE_CALLS
            self._on_idle()
        if not self._answers.empty():
            return self._settle(*self._answers.get())
        job = self._job_to_send(now)
        if job is None and self._has_room_for_more():
            item = next(items, None)
            if isinstance(item, AssignmentOutcome):
                return item
            self._next, self._is_exhausted = (_Job(item) if item else None), item is None
        elif job is None or not self._send(job, now):
            return self._wait_for_an_answer(now)
        return None

    def _is_finished(self) -> bool:
        nothing_left = self._is_exhausted and self._next is None and not self._later
        return not self._in_flight and (self._stopped_by is not None or nothing_left)

    def _has_room(self) -> bool:
        return self._in_flight + len(self._later) < self._max_in_flight

    def _has_room_for_more(self) -> bool:
        return self._next is None and not self._is_exhausted and not self._stopped_by and self._has_room()

    def _job_to_send(self, now: float) -> _Job | None:
        if self._stopped_by:
            return None
        # One at a time finds the end of a shared key's window by one refusal, not by many.
        if self._in_flight and self._pacer.is_contended:
            return None
        if self._later and self._later[0][0] <= now:
            return self._later[0][2]
        if self._next and self._has_room() and self._next.item.user_phone_number not in self._busy:
            return self._next
        return None

    def _send(self, job: _Job, now: float) -> bool:
        """Send it if the pacer lets it through."""
        if now < self._not_before:
            return False
        wait = self._pacer.try_acquire()
        if wait > LONGEST_WAIT:
            self._stop(job.item, too_long_a_wait(wait))
            return False
        if wait:
            self._not_before = now + wait
            return False
        if job is self._next:
            self._next = None
        else:
            heapq.heappop(self._later)
        self._busy.add(job.item.user_phone_number)
        self._in_flight += 1
        if self._max_in_flight == 1:  # another thread would only cost time
            self._exchange(job)
            return True
        if self._in_flight > len(self._threads):
            thread = threading.Thread(target=self._work, name="splashify-batch", daemon=True)
            thread.start()
            self._threads.append(thread)
        self._jobs.put(job)
        return True

    def _work(self) -> None:
        while job := self._jobs.get():
            self._exchange(job)

    def _exchange(self, job: _Job) -> None:
        answer: str | BaseException
        try:
            answer = self._post(job.item.user_phone_number, job.item.agent_email)
        except RateLimitError as error:  # holds everybody back at once, whenever somebody looks at the answer
            job.refusals += 1
            self._pacer.pause(error.retry_after or retry_delay(job.refusals, None))
            answer = error
        except BaseException as error:  # the thread that iterates raises it
            answer = error
        self._answers.put((job, answer))

    def _wait_for_an_answer(self, now: float) -> AssignmentOutcome | None:
        events = [self._idle_at]
        if not self._stopped_by:
            events += [self._not_before] if self._not_before > now else []
            events += [self._later[0][0]] if self._later and self._later[0][0] > now else []
        try:
            job, answer = self._answers.get(timeout=max(0.0, min(events) - now))
        except Empty:
            return None
        return self._settle(job, answer)

    def _settle(self, job: _Job, answer: str | BaseException) -> AssignmentOutcome | None:
        """Decide what an answer means for its assignment and for the batch. None: it is to be tried again."""
        self._in_flight -= 1
        self._busy.discard(job.item.user_phone_number)
        if isinstance(answer, str):
            self._failures = 0
            return _assigned(job.item, answer)
        if not isinstance(answer, SplashifyError) or isinstance(answer, SplashifyConfigurationError):
            raise answer
        job.error = answer.with_traceback(None)
        if isinstance(answer, RateLimitError):
            delay = 0.0  # the pacer holds everybody back
            may_try_again = job.refusals < _MOST_429S
        else:
            job.attempts += 1
            delay = retry_delay(job.attempts, answer)
            may_try_again = job.attempts < self._max_attempts
        if may_try_again and is_worth_another_try(answer):
            self._busy.add(job.item.user_phone_number)
            heapq.heappush(self._later, (time.monotonic() + delay, next(self._ties), job))
            return None
        return self._failure(job.item, answer)

    def _failure(self, item: Assignment, error: SplashifyError) -> AssignmentOutcome:
        outcome = _outcome(item, _OUTCOMES.get(type(error), "failed" if error.retryable else "rejected"), error)
        is_about_this_row = type(error) in _OUTCOMES or (
            isinstance(error, BadRequestError) and error.status_code in _ABOUT_ONE_ROW
        )
        self._failures = 0 if is_about_this_row else self._failures + 1
        if isinstance(error, _REFUSED_KEY) or (isinstance(error, RateLimitError) and not is_worth_another_try(error)):
            self._stop(item, error)
        elif self._failures >= self._max_consecutive_failures:
            reason = copy.copy(error)
            reason.message = (
                f"{self._failures:,} failures in a row (max_consecutive_failures={self._max_consecutive_failures}). "
                f"The last: {error.message}"
            )
            self._stop(item, reason)
        else:
            return outcome
        return replace(outcome, stopped_by=self._stopped_by)

    def _stop(self, item: Assignment, error: SplashifyError) -> None:
        # A refused key matters more than what failed before it was found out: no retry can heal it.
        if self._stopped_by is None or (isinstance(error, _REFUSED_KEY) and self._stopped_by.retryable):
            self._stopped_by, self._stopped_at = error, item.position

    def _leave_out(self, items: Iterator[Assignment | AssignmentOutcome]) -> Iterator[AssignmentOutcome]:
        """Give the outcomes of what remains after a stop; nothing remains otherwise."""
        for _, _, job in sorted(self._later):
            assert job.error is not None  # noqa: S101 - it is there because of that
            yield replace(_outcome(job.item, "failed", job.error), stopped_by=self._stopped_by)
        rest = itertools.chain([self._next.item] if self._next else [], items)
        for item in rest:
            if isinstance(item, AssignmentOutcome):
                yield item
            elif self._stopped_by:
                stop = self._stopped_by
                yield AssignmentOutcome(
                    item.position,
                    item.user_phone_number,
                    item.agent_email,
                    "not_attempted",
                    f"Not attempted: the batch was stopped at position {self._stopped_at} ({type(stop).__name__}).",
                    stop,
                    stop,
                )

    def _late_answers(self, deadline: float) -> Iterator[AssignmentOutcome]:
        """Give what is under way when the batch is ended a moment to arrive: what was done should be known."""
        while self._in_flight:
            try:
                job, answer = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                return
            self._in_flight -= 1
            if isinstance(answer, str):
                yield _assigned(job.item, answer)
            elif isinstance(answer, SplashifyAPIError):
                yield self._failure(job.item, answer)

    def _end_threads(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:  # those that wait for an answer end by themselves, after it
            thread.join(_SECONDS_TO_JOIN / len(self._threads))


def _assigned(item: Assignment, message: str) -> AssignmentOutcome:
    return AssignmentOutcome(item.position, item.user_phone_number, item.agent_email, "assigned", message)


def _outcome(item: Assignment, outcome: Outcome, error: SplashifyError) -> AssignmentOutcome:
    return AssignmentOutcome(item.position, item.user_phone_number, item.agent_email, outcome, error.message, error)
