"""How far a batch is: for the log, for XCom, and for the error that a failed batch ends with."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from splashify_provider.bulk.assignment import AGENT_REFUSED, reworded
from splashify_provider.exceptions import Outcome, SplashifyConfigurationError, SplashifyError
from splashify_provider.redaction import mask_phone_number, plural

if TYPE_CHECKING:
    from collections.abc import Callable

    from splashify_provider.bulk.assignment import AssignmentOutcome
    from splashify_provider.bulk.preflight import CheckedRows
    from splashify_provider.rate_limit import RateLimiter

_SECONDS_BETWEEN_LINES = 10.0
_MOST_FAILURES = 100
_MOST_KINDS_IN_LOG = 20
_MOST_AGENTS = 20
_HELD: tuple[Outcome, ...] = ("assigned", "released")


@dataclass
class _Refused:
    """An agent whom Splashify refused, and what became of the conversations that were for them."""

    agent: str
    error: SplashifyError
    elsewhere: int = 0
    failed: int = 0


class Progress:
    """Counts what a batch has done, and tells the task's log.

    :param counts_invalid: Whether rows that are invalid are counted as not done.
    """

    def __init__(
        self,
        checked: CheckedRows,
        limiter: RateLimiter,
        log: Any,
        clock: Callable[[], float] = time.monotonic,
        *,
        counts_invalid: bool = False,
    ) -> None:
        self.counts: Counter[str] = +Counter(invalid=len(checked.invalid))
        self.done = 0
        """How many conversations are as they should be."""
        self.stopped_by: SplashifyError | None = None
        self._checked, self._limiter, self._log, self._clock = checked, limiter, log, clock
        self._invalid = len(checked.invalid) if counts_invalid else 0
        self._to_send, self._done_before = len(checked.assignments), Counter[Outcome]()
        self._failed = self._invalid
        self._undone: Counter[Outcome] = Counter()  # but for refused agents
        self._is_held = bytearray(b"\1" + bytes(checked.total))  # by position
        self._copies: dict[int, list[int]] = {}  # positions of duplicates, by that of the first
        for item, first in checked.duplicates:
            self._copies.setdefault(first.position, []).append(item.position)
        self._elsewhere: dict[str, list[list[int]]] = {}  # by agent, first and last positions
        self._refused: dict[str, _Refused] = {}  # by agent
        self._errors: dict[Outcome, SplashifyError] = {}  # the last of each
        self._failures: list[AssignmentOutcome] = []
        self._kinds: dict[tuple[str, str], tuple[int, AssignmentOutcome]] = {}  # how many, and the first
        self._started = self._logged = clock()
        self._sent = self._sent_when_logged = 0
        if self._invalid:
            self._undone["invalid"] = self._invalid
            text = "Rows are invalid.\nCorrect the invalid rows, which are named at the start of the log."
            self._errors["invalid"] = SplashifyConfigurationError(text)

    @property
    def undone(self) -> int:
        """How many conversations are not as they should be."""
        return len(self._checked.assignments) + self._invalid - self.done

    def add_done_before(self, outcome: AssignmentOutcome) -> None:
        """Count an assignment that an earlier try has done."""
        self._to_send -= 1
        self.done += 1
        self._done_before[outcome.outcome] += 1
        self._note_holder(outcome)

    def add(self, outcome: AssignmentOutcome, *, is_done: bool) -> None:
        """Count the outcome of an assignment, and whether it is as it should be."""
        self.counts[outcome.outcome] += 1
        self._sent += 1
        self._note_holder(outcome)
        self._note_refused(outcome)
        if is_done:
            self.done += 1
            return
        self._failed += 1
        self.stopped_by = outcome.stopped_by or self.stopped_by
        if len(self._failures) < _MOST_FAILURES:
            self._failures.append(outcome)
        if isinstance(outcome.error, AGENT_REFUSED) and outcome.refused:  # told by agent
            self._errors.update({error.outcome: error for error in outcome.refused.values()})
            return
        self._undone[outcome.outcome] += 1
        if outcome.error is None or outcome.outcome == "not_attempted":  # those all say the same
            return
        self._errors[outcome.outcome] = outcome.error
        # Of one kind are those that differ in nothing but the number.
        kind = outcome.outcome, outcome.error.reason.replace(mask_phone_number(outcome.user_phone_number), "…")
        count, first = self._kinds.get(kind, (0, outcome))
        if count or len(self._kinds) < _MOST_KINDS_IN_LOG:
            self._kinds[kind] = count + 1, first

    def _note_holder(self, outcome: AssignmentOutcome) -> None:
        if outcome.outcome not in _HELD:
            return
        planned = self._checked.assignments[outcome.user_phone_number].agent_email
        for position in [outcome.position, *self._copies.get(outcome.position, ())]:
            self._is_held[position] = True
            if outcome.agent_email and outcome.agent_email != planned:
                self._elsewhere.setdefault(outcome.agent_email, []).append([position, position])

    def _note_refused(self, outcome: AssignmentOutcome) -> None:
        for agent, error in outcome.refused.items():
            refused = self._refused.setdefault(agent.casefold(), _Refused(agent, error))
            refused.elsewhere += outcome.outcome == "assigned"
            refused.failed += isinstance(outcome.error, AGENT_REFUSED)

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
        """Log the end: a table of the outcomes, each refused agent, and two lines for each kind of other failures."""
        rows = [(outcome, self.counts[outcome]) for outcome in get_args(Outcome) if self.counts[outcome]]
        before = self._done_before.total()
        rows += [("done by an earlier try", before)] if before else []
        self._log.info("The batch took %.1f s:", self._clock() - self._started)
        for outcome, count in rows:  # a line each: log viewers show a line break as they like
            self._log.info("    %-24s %9s", outcome, f"{count:,}")
        self._log_refused()
        for count, first in self._kinds.values():
            row = f"row {first.position} ({mask_phone_number(first.user_phone_number)})"
            text = f"{plural(count, 'row')} {first.outcome}, the first is {row}: {first.message}"
            for line in text.split("\n"):
                self._log.warning("%s", line)

    def _log_refused(self) -> None:
        """Log each refused agent once, and what to do about them once for all with the same cause."""
        remedies: dict[str, None] = {}
        for refused in self._most_refused()[:_MOST_AGENTS]:
            went = f"{plural(refused.elsewhere, 'conversation')} went to the next in line, {refused.failed:,} failed"
            self._log.warning("%s; %s.", refused.error.reason.partition(";")[0], went)
            remedies[refused.error.remedy] = None
        if (more := len(self._refused) - _MOST_AGENTS) > 0:
            self._log.warning("Splashify refused %s more.", plural(more, "agent"))
        for remedy in remedies:
            self._log.warning("%s", remedy)

    def _most_refused(self) -> list[_Refused]:
        return sorted(self._refused.values(), key=lambda refused: -refused.failed - refused.elsewhere)

    def error(self, next_try: str) -> SplashifyError | None:
        """Return the error that stands for all that is not done, if anything is: transient if a retry may help.

        :param next_try: What the next try does, as in "sends everything again.".
        """
        order = ("failed", "rejected", *self._errors)
        kind = next((each for each in order if each in self._errors), None)
        error = self.stopped_by or (self._errors[kind] if kind else None)
        if error is None:
            return None
        count, wanted = self._failed, len(self._checked.assignments) + self._invalid
        reason = (
            f"{count:,} of {plural(wanted, 'conversation')} {'is' if count == 1 else 'are'} not done "
            f"({'; '.join(self._in_words())})"
        )
        if self.stopped_by:
            reason += f", and the batch was stopped. {error.reason}"
        elif kind in ("failed", "rejected"):
            reason += f". The last: {error.reason}"
        else:  # whose reason names one row or agent of many
            reason += "."
        remedies = [error.remedy]
        for outcome, other in self._errors.items():
            if other.remedy not in ("", error.remedy):
                remedies.append(f"{outcome.replace('_', ' ').capitalize()}: {other.remedy}")
        again = "A retry, or clearing this task," if error.retryable else "Then clear this task: it"
        return reworded(error, reason, " ".join(filter(None, [*remedies, f"{again} {next_try}"])))

    def _in_words(self) -> list[str]:
        """Count what is not done: by agent and cause where Splashify refuses agents, else by outcome."""
        agents = [refused for refused in self._most_refused() if refused.failed]
        shown = [
            f"{refused.agent} {refused.error.outcome.removeprefix('agent_').replace('_', ' ')}: {refused.failed:,}"
            for refused in agents[:_MOST_AGENTS]
        ]
        if more := len(agents) - len(shown):
            shown.append(f"and {more:,} more")
        others = [f"{outcome.replace('_', ' ')}: {count:,}" for outcome, count in self._undone.items()]
        return [*filter(None, [", ".join(shown)]), *others]

    def summary(self) -> dict[str, Any]:
        """Return what XCom gets, which the operator describes; without whole phone numbers."""
        return {
            "total": self._checked.total,
            "counts": dict(self.counts),
            "done_before": dict(self._done_before),
            "duplicates": len(self._checked.duplicates),
            "undone": self.undone,
            "not_done": [[run.start(), run.end() - 1] for run in re.finditer(b"\0+", self._is_held)],
            "elsewhere": self._runs_elsewhere(),
            "refused_agents": {
                refused.agent: {
                    "cause": refused.error.outcome,
                    "elsewhere": refused.elsewhere,
                    "failed": refused.failed,
                }
                for refused in self._refused.values()
            },
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
            "seconds": round(self._clock() - self._started, 1),
        }

    def _runs_elsewhere(self) -> dict[str, list[list[int]]]:
        """Return who has conversations that were for others, by position; what was joined stays so."""
        for agent, runs in self._elsewhere.items():
            joined: list[list[int]] = []
            for first, last in sorted(runs):
                if joined and joined[-1][1] + 1 >= first:
                    joined[-1][1] = max(joined[-1][1], last)
                else:
                    joined.append([first, last])
            self._elsewhere[agent] = joined
        return {agent: [list(run) for run in runs] for agent, runs in self._elsewhere.items()}
