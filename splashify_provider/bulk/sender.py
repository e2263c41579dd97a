"""Many assignments with one key: paced, a few in flight at once, an outcome for each."""

from __future__ import annotations

import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from splashify_provider.bulk.assignment import Assignment, AssignmentOutcome, check_row
from splashify_provider.bulk.decisions import Answer, Decisions
from splashify_provider.bulk.preflight import check_limits
from splashify_provider.client import retry_delay
from splashify_provider.exceptions import RateLimitError, SplashifyAPIError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
    from typing import Any

    from splashify_provider.bulk.agents import Job
    from splashify_provider.client import SplashifyClient
    from splashify_provider.rate_limit import RateLimiter

_SECONDS_BETWEEN_TICKS = 1.0
_SECONDS_TO_JOIN = 1.0
_SECONDS_FOR_LATE_ANSWERS = 2.0  # Airflow kills a task five seconds after it told it to stop


def assign_many(
    client: SplashifyClient,
    assignments: Iterable[Mapping[str, Any] | Assignment | AssignmentOutcome],
    *,
    max_in_flight: int = 8,
    max_consecutive_failures: int = 10,
    on_tick: Callable[[], object] | None = None,
) -> Generator[AssignmentOutcome, None, None]:
    """Send rows, or what :func:`check_row` made of them, as ``SplashifyHook.assign_many`` describes."""
    check_limits(max_in_flight, max_consecutive_failures)
    decisions = Decisions(
        client.limiter,
        max_attempts=client.settings.max_attempts,
        max_in_flight=max_in_flight,
        max_consecutive_failures=max_consecutive_failures,
    )
    exchanges = Exchanges(client.send_assignment, client.limiter, in_threads=max_in_flight > 1)
    rows = (
        row if isinstance(row, (Assignment, AssignmentOutcome)) else check_row(client, position, row)
        for position, row in enumerate(assignments, 1)
    )
    return send(rows, decisions, exchanges, on_tick or (lambda: None))


def send(
    rows: Iterator[Assignment | AssignmentOutcome],
    decisions: Decisions,
    exchanges: Exchanges,
    on_tick: Callable[[], object],
) -> Generator[AssignmentOutcome, None, None]:
    """Do what is decided, one thing after another, until nothing is left; see :func:`assign_many`."""
    try:
        while not decisions.is_finished:
            on_tick()
            # What is known comes first, since it may say that nothing more goes.
            answer = exchanges.answer()
            if answer is None and (job := decisions.next_job()):
                exchanges.start(job)
                continue
            if answer is None and decisions.wants_a_row:
                row = next(rows, None)
                if isinstance(row, AssignmentOutcome):
                    yield row
                else:
                    decisions.take(row)
            elif answer := answer or exchanges.answer(min(_SECONDS_BETWEEN_TICKS, decisions.seconds_to_wait)):
                decisions.settle(*answer)
            yield from decisions.outcomes()
        yield from decisions.left_out(rows)
    except GeneratorExit:
        raise
    except BaseException:
        # What is under way has a moment to arrive: what was done should be known.
        for job, late in exchanges.late_answers(_SECONDS_FOR_LATE_ANSWERS):
            if isinstance(late, (str, SplashifyAPIError)):
                decisions.settle(job, late)
                yield from decisions.outcomes()
        raise
    finally:
        exchanges.end()


class Exchanges:
    """Requests under way, each in a thread that only waits for its answer.

    The threads are daemons, since one that hangs must not keep a stopped task.

    :param send: Sends one assignment, given number and agent (empty to release); returns Splashify's message or raises.
    :param limiter: Told of 429s at once, whenever somebody looks at the answer.
    :param in_threads: False where there is one request at a time: another thread would only cost time.
    """

    def __init__(self, send: Callable[[str, str], str], limiter: RateLimiter, *, in_threads: bool) -> None:
        self._send, self._limiter, self._in_threads = send, limiter, in_threads
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Job, Answer]] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._under_way = 0

    def start(self, job: Job) -> None:
        """Send a request."""
        self._under_way += 1
        if not self._in_threads:
            self._exchange(job)
            return
        if self._under_way > len(self._threads):
            thread = threading.Thread(target=self._work, name="splashify-bulk", daemon=True)
            thread.start()
            self._threads.append(thread)
        self._jobs.put(job)

    def answer(self, seconds: float = 0.0) -> tuple[Job, Answer] | None:
        """Return the next answer and what it answers; None if there is none within so many seconds."""
        if seconds <= 0 and self._answers.empty():
            return None
        try:
            answer = self._answers.get(timeout=max(0.0, seconds))
        except Empty:
            return None
        self._under_way -= 1
        return answer

    def late_answers(self, seconds: float) -> Iterator[tuple[Job, Answer]]:
        """Return the answers to what is under way that arrive within so many seconds."""
        deadline = time.monotonic() + seconds
        while self._under_way and (answer := self.answer(deadline - time.monotonic())):
            yield answer

    def end(self) -> None:
        """End the threads. Those that wait for an answer end by themselves, after it."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(_SECONDS_TO_JOIN / len(self._threads))

    def _work(self) -> None:
        while job := self._jobs.get():
            self._exchange(job)

    def _exchange(self, job: Job) -> None:
        answer: Answer
        try:
            agent = job.agent
            answer = self._send(job.item.user_phone_number, "" if agent is None else agent)  # which is a release
        except RateLimitError as error:
            job.refusals += 1
            self._limiter.pause(error.retry_after or retry_delay(job.refusals, None))
            answer = error
        except BaseException as error:  # raised where the batch is read
            answer = error
        self._answers.put((job, answer))
