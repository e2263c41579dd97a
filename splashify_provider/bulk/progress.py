"""How far a batch is: for the log, for XCom, and for the decision what its failures mean."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, get_args

from splashify_provider.hooks.batch import AssignmentOutcome, Outcome
from splashify_provider.redaction import mask_phone_number

if TYPE_CHECKING:
    from splashify_provider.exceptions import SplashifyError

_SECONDS_BETWEEN_LINES = 10.0
_MOST_FAILURES = 100
_MOST_FAILURES_IN_LOG = 20


class Progress:
    """Counts what a batch has done.

    :param to_send: How many assignments there are.
    :param per_minute: How many the key allows.
    :param log: The task's logger.
    """

    def __init__(self, to_send: int, per_minute: int, log: Any) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: list[dict[str, Any]] = []
        """At most the first 100, numbers masked."""
        self.undone: Counter[str] = Counter()
        """The outcomes that are not as they should be, without those of invalid rows."""
        self.stopped_by: SplashifyError | None = None
        self.last_failure: SplashifyError | None = None
        self.last_rejection: SplashifyError | None = None
        self._to_send, self._per_minute, self._log = to_send, per_minute, log
        self._started = self._logged = time.monotonic()

    def add(self, outcome: AssignmentOutcome, *, is_done: bool) -> None:
        """Count one outcome.

        :param outcome: The outcome.
        :param is_done: Whether it is as it should be.
        """
        self.counts[outcome.outcome] += 1
        if is_done:
            return
        self.stopped_by = outcome.stopped_by or self.stopped_by
        if outcome.outcome != "invalid":
            self.undone[outcome.outcome] += 1
            if outcome.outcome == "failed":
                self.last_failure = outcome.error
            else:
                self.last_rejection = outcome.error
        if len(self.failures) < _MOST_FAILURES:
            self.failures.append(
                {
                    "position": outcome.position,
                    "user_phone_number": mask_phone_number(outcome.user_phone_number),
                    "agent_email": outcome.agent_email,
                    "outcome": outcome.outcome,
                    "message": outcome.message,
                }
            )

    def log_if_due(self) -> None:
        """Log a line every ten seconds."""
        now = time.monotonic()
        if now - self._logged < _SECONDS_BETWEEN_LINES:
            return
        self._logged = now
        sent = self.counts.total() - self.counts["invalid"]
        elapsed = now - self._started
        rate = sent / elapsed
        left = self._to_send - sent
        # A burst at the beginning is no promise: so many whole windows have to pass before the last may go.
        windows = math.ceil(self._to_send / self._per_minute) - 1
        seconds = max(left / rate if rate else 0.0, 60 * windows - elapsed)
        outcomes = [item for item in self.counts.most_common() if item[0] != "invalid"]  # was never to be sent
        self._log.info(
            "%s of %s (%.0f %%): %s. %.1f a second, at most %s a minute, %s left.",
            f"{sent:,}",
            f"{self._to_send:,}",
            100 * sent / max(1, self._to_send),
            ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes) or "waiting",
            rate,
            f"{self._per_minute:,}",
            f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s" if sent else "unknown time",
        )

    def log_table(self, done_before: int) -> None:
        """Log the end: a table of the outcomes, and the first failures.

        :param done_before: How many an earlier try had done.
        """
        rows = [(outcome, self.counts[outcome]) for outcome in get_args(Outcome) if self.counts[outcome]]
        rows += [("done by an earlier try", done_before)] if done_before else []
        self._log.info("The batch took %.1f s:", time.monotonic() - self._started)
        for outcome, count in rows:  # a line each: log viewers show a line break as they like
            self._log.info("    %-24s %9s", outcome, f"{count:,}")
        told = [failure for failure in self.failures if failure["outcome"] != "not_attempted"]  # those all say the same
        for failure in told[:_MOST_FAILURES_IN_LOG]:
            self._log.warning("Row %s %s: %s", failure["position"], failure["outcome"], failure["message"])
