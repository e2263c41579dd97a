"""How far a batch is: for the log, for XCom, and for the error that a failed batch ends with."""

from __future__ import annotations

import time
from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING, Any, get_args

from splashify_provider.bulk.assignment import reworded
from splashify_provider.exceptions import Outcome, SplashifyError
from splashify_provider.redaction import mask_phone_number, plural

if TYPE_CHECKING:
    from collections.abc import Callable

    from splashify_provider.bulk.assignment import Assignment, AssignmentOutcome
    from splashify_provider.bulk.preflight import CheckedRows
    from splashify_provider.rate_limit import RateLimiter

_SECONDS_BETWEEN_LINES = 10.0
_MOST_FAILURES = 100
_MOST_KINDS_IN_LOG = 20
_MOST_AGENTS_IN_ERROR = 20
_AGENT_REFUSED = ("agent_not_found", "agent_inactive")


class Progress:
    """Counts what a batch has done, and tells the task's log."""

    def __init__(
        self, checked: CheckedRows, limiter: RateLimiter, log: Any, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.counts: Counter[str] = +Counter(invalid=len(checked.invalid))
        self.undone: Counter[Outcome] = Counter()  # without invalid rows
        self.stopped_by: SplashifyError | None = None
        self._checked, self._limiter, self._log, self._clock = checked, limiter, log, clock
        self._to_send, self._done_before = len(checked.assignments), 0
        self._is_assigned = bytearray(checked.total + 1)  # by position
        self._refused: dict[str, Counter[Outcome]] = {}  # by agent
        self._errors: dict[Outcome, SplashifyError] = {}  # the last of each
        self._failures: list[AssignmentOutcome] = []
        self._kinds: dict[tuple[str, str], tuple[int, AssignmentOutcome]] = {}  # how many, and the first
        self._started = self._logged = clock()
        self._sent = self._sent_when_logged = 0

    @property
    def done(self) -> int:
        """How many assignments are as they should be."""
        return self._to_send + self._done_before - self.undone.total()

    def add_done_before(self, item: Assignment, outcome: Outcome) -> None:
        """Count an assignment that an earlier try has done."""
        self._to_send, self._done_before = self._to_send - 1, self._done_before + 1
        self._is_assigned[item.position] = outcome == "assigned"

    def add(self, outcome: AssignmentOutcome, *, is_done: bool) -> None:
        """Count the outcome of an assignment, and whether it is as it should be."""
        self.counts[outcome.outcome] += 1
        self._sent += 1
        self._is_assigned[outcome.position] = outcome.outcome == "assigned"
        if is_done:
            return
        self.undone[outcome.outcome] += 1
        self.stopped_by = outcome.stopped_by or self.stopped_by
        if len(self._failures) < _MOST_FAILURES:
            self._failures.append(outcome)
        if outcome.error is None or outcome.outcome == "not_attempted":  # those all say the same
            return
        self._errors[outcome.outcome] = outcome.error
        if outcome.outcome in _AGENT_REFUSED:
            self._refused.setdefault(outcome.agent_email, Counter())[outcome.outcome] += 1
        # Of one kind are those that differ in nothing but the number.
        kind = outcome.outcome, outcome.error.reason.replace(mask_phone_number(outcome.user_phone_number), "…")
        count, first = self._kinds.get(kind, (0, outcome))
        if count or len(self._kinds) < _MOST_KINDS_IN_LOG:
            self._kinds[kind] = count + 1, first

    def log_if_due(self) -> None:
        """Log a line every ten seconds."""
        now = self._clock()
        if now - self._logged < _SECONDS_BETWEEN_LINES:
            return
        rate = (self._sent - self._sent_when_logged) / (now - self._logged)
        self._logged, self._sent_when_logged = now, self._sent
        limiter, left = self._limiter, self._to_send - self._sent
        if wait := limiter.wait:
            seconds = limiter.seconds_for(left)
            pace = f"Waiting for the limit, {limiter.requests_per_minute:,} a minute"
        else:  # it is fast now, but not beyond the present burst
            seconds = max(left / rate if rate else 0.0, limiter.seconds_for(self._to_send) - (now - self._started))
            pace = f"{rate:.1f} a second"
        outcomes = [item for item in self.counts.most_common() if item[0] != "invalid"]  # was never to be sent
        self._log.info(
            "%s of %s (%.0f %%): %s. %s, %s left.",
            f"{self._sent:,}",
            f"{self._to_send:,}",
            100 * self._sent / max(1, self._to_send),
            ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes) or "no answer yet",
            pace,
            f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s" if wait or rate else "unknown time",
        )

    def log_table(self) -> None:
        """Log the end: a table of the outcomes, and two lines for each kind of failure."""
        rows = [(outcome, self.counts[outcome]) for outcome in get_args(Outcome) if self.counts[outcome]]
        rows += [("done by an earlier try", self._done_before)] if self._done_before else []
        self._log.info("The batch took %.1f s:", self._clock() - self._started)
        for outcome, count in rows:  # a line each: log viewers show a line break as they like
            self._log.info("    %-24s %9s", outcome, f"{count:,}")
        for count, first in self._kinds.values():
            row = f"row {first.position} ({mask_phone_number(first.user_phone_number)})"
            text = f"{plural(count, 'row')} {first.outcome}, the first is {row}: {first.message}"
            for line in text.split("\n"):
                self._log.warning("%s", line)

    def error(self, next_try: str) -> SplashifyError | None:
        """Return the error that stands for all that is not done, if anything is: transient if a retry may help.

        :param next_try: What the next try does, as in "sends everything again.".
        """
        order = ("failed", "rejected", *self._errors)
        error = self.stopped_by or next((self._errors[each] for each in order if each in self._errors), None)
        if error is None:
            return None
        count = self.undone.total()
        reason = (
            f"{count:,} of {plural(len(self._checked.assignments), 'assignment')} {'is' if count == 1 else 'are'} not "
            f"done ({'; '.join(map(self._in_words, self.undone))})"
        )
        if self.stopped_by:
            reason += f", and the batch was stopped. {error.reason}"
        elif error.outcome in ("failed", "rejected"):
            reason += f". The last: {error.reason}"
        else:  # whose reason names one row or agent of many
            reason += "."
        remedies = [error.remedy]
        for outcome, other in self._errors.items():
            if other.remedy not in ("", error.remedy):
                remedies.append(f"{outcome.replace('_', ' ').capitalize()}: {other.remedy}")
        again = "A retry, or clearing this task," if error.retryable else "Then clear this task: it"
        return reworded(error, reason, " ".join(filter(None, [*remedies, f"{again} {next_try}"])))

    def _in_words(self, outcome: Outcome) -> str:
        """Count what came to an outcome, for each agent where Splashify refuses agents."""
        agents = Counter({agent: counts[outcome] for agent, counts in self._refused.items() if counts[outcome]})
        shown = [f"{count:,} x {agent}" for agent, count in agents.most_common(_MOST_AGENTS_IN_ERROR)]
        if more := len(agents) - len(shown):
            shown.append(f"and {plural(more, 'agent')} more")
        return f"{outcome.replace('_', ' ')}: " + (", ".join(shown) or f"{self.undone[outcome]:,}")

    def summary(self) -> dict[str, Any]:
        """Return what XCom gets, which the operator describes; without whole phone numbers."""
        for item, first in self._checked.duplicates:
            self._is_assigned[item.position] = self._is_assigned[first.position]
        undone = (position for position in range(1, self._checked.total + 1) if not self._is_assigned[position])
        runs = [list(run) for _, run in groupby(enumerate(undone), lambda pair: pair[1] - pair[0])]
        return {
            "total": self._checked.total,
            "counts": dict(self.counts),
            "done_before": self._done_before,
            "duplicates": len(self._checked.duplicates),
            "not_done": [[run[0][1], run[-1][1]] for run in runs],
            "refused_agents": {agent: dict(counts) for agent, counts in self._refused.items()},
            "failures": [
                {
                    "position": failure.position,
                    "user_phone_number": mask_phone_number(failure.user_phone_number),
                    "agent_email": failure.agent_email,
                    "outcome": failure.outcome,
                    "message": failure.message,
                }
                for failure in [*self._failures, *self._checked.invalid[:_MOST_FAILURES]][:_MOST_FAILURES]
            ],
        }
