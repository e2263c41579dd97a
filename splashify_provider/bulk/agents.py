"""Who of a batch's agents takes chats, as far as the answers tell, and what waits until that is known."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from splashify_provider.bulk.assignment import Assignment, AssignmentOutcome, all_refused, reworded
from splashify_provider.redaction import mask_phone_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from splashify_provider.exceptions import SplashifyError

MOST_WAITING = 1000
"""So many rows are looked ahead over for agents who may be asked now: memory stays flat, however long the batch is."""
_MOST_DOUBLINGS = 6  # 64, the most that may be in flight


@dataclass(eq=False)
class Job:
    """An assignment on its way to the first of its agents whom Splashify does not refuse."""

    item: Assignment
    attempts: int = 0  # that failed, without 429s
    refusals: int = 0  # 429s
    not_before: float = -math.inf
    error: SplashifyError | None = None  # the last one
    refused: dict[str, SplashifyError] = field(default_factory=dict)  # its agents so far

    @property
    def agent(self) -> str | None:
        """Whom to ask; None for a release."""
        return self.item.agents[len(self.refused)]

    def pass_over(self, error: SplashifyError) -> None:
        """Note that its agent is refused, and turn to the next one."""
        self.refused[str(self.agent)] = error
        self.attempts, self.not_before, self.error = 0, -math.inf, None

    @property
    def is_hopeless(self) -> bool:
        """Whether all its agents are refused."""
        return len(self.refused) > len(self.item.fallback_agents)

    def refused_by_all(self) -> AssignmentOutcome:
        """Return its outcome where that is so."""
        error = all_refused(list(self.refused.values()))
        return self.item.ended(error.outcome, error.message, error, refused=self.refused)


class Agents:
    """Of each agent the first request goes alone, and who was refused is not asked again: one request tells for all.

    The rows of an agent of whom nothing is known yet wait here, while those of others go on. An answer about the
    customer or the server tells nothing of the agent. After each that did not come at all twice as many go at once: a
    server that hangs shall not hold a worker for one time-out after another.
    """

    def __init__(self) -> None:
        self._fine = {_key(None)}
        self._asked: Counter[str] = Counter()  # how many are under way, of agents of whom nothing is known
        self._silent: Counter[str] = Counter()  # how many of their requests got no answer
        self._refused: dict[str, tuple[SplashifyError, str]] = {}  # with the number that it names
        self._waiting: dict[str, deque[Job]] = {}  # by whom to ask, none of them empty
        self.waiting = 0
        """How many rows wait."""

    def may_be_asked(self, agent: str | None) -> bool:
        """Whether a request with this agent may go now."""
        return self._is_open(_key(agent))

    def line_up(self, job: Job) -> AssignmentOutcome | None:
        """Have a row wait for the first of its agents who is not refused; return its outcome if there is none."""
        while not job.is_hopeless:
            if known := self._refused.get(_key(job.agent)):
                job.pass_over(_about(job.item, *known))
                continue
            self._waiting.setdefault(_key(job.agent), deque()).append(job)
            self.waiting += 1
            return None
        return job.refused_by_all()

    def first(self) -> Job | None:
        """Return a row that may go now."""
        # No more agents are passed here than there are requests under way.
        return next((jobs[0] for key, jobs in self._waiting.items() if self._is_open(key)), None)

    def ask(self, job: Job) -> None:
        """Note that a row goes: the one of :meth:`first`, or one that does not wait here."""
        key = _key(job.agent)
        if key not in self._fine:
            self._asked[key] += 1
        jobs = self._waiting.get(key)
        if jobs and jobs[0] is job:
            jobs.popleft()
            self.waiting -= 1
            if not jobs:
                del self._waiting[key]

    def answered(self, job: Job, *, is_fine: bool, is_silent: bool) -> None:
        """Note an answer that does not refuse the agent, or that there is none."""
        key = _key(job.agent)
        self._asked[key] -= 1
        self._silent[key] += is_silent
        if is_fine:
            self._fine.add(key)

    def refuse(self, job: Job, error: SplashifyError) -> list[Job]:
        """Note that a row's agent is refused, and pass them over. Return the rows that have waited for them."""
        key = _key(job.agent)
        self._asked[key] -= 1
        self._fine.discard(key)
        self._refused.setdefault(key, (error, job.item.user_phone_number))
        job.pass_over(error)
        jobs = self._waiting.pop(key, ())
        self.waiting -= len(jobs)
        return list(jobs)

    def is_refused(self, agent: str | None) -> bool:
        """Whether an agent was refused."""
        return _key(agent) in self._refused

    def left(self) -> Iterator[Job]:
        """Return all rows that wait, in their order."""
        return iter(sorted((job for jobs in self._waiting.values() for job in jobs), key=lambda job: job.item.position))

    def _is_open(self, key: str) -> bool:
        return key in self._fine or self._asked[key] < 2 ** min(self._silent[key], _MOST_DOUBLINGS)


def _key(agent: str | None) -> str:
    return (agent or "").casefold()


def _about(item: Assignment, error: SplashifyError, number: str) -> SplashifyError:
    """Return an error that names one number as one that names another."""
    masked, own = mask_phone_number(number), mask_phone_number(item.user_phone_number)
    return reworded(error, error.reason.replace(masked, own))
