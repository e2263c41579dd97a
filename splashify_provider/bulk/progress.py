"""How far a batch is: for the log, for XCom, and for the decision what its failures mean."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, get_args

from splashify_provider.hooks.batch import AssignmentOutcome, Outcome
from splashify_provider.redaction import mask_phone_number

if TYPE_CHECKING:
    from splashify_provider.exceptions import SplashifyError
    from splashify_provider.rate_limit import RateLimiter

_SECONDS_BETWEEN_LINES = 10.0
_MOST_FAILURES = 100
_MOST_FAILURES_IN_LOG = 20


class Progress:
    """Counts what a batch has done.

    :param to_send: How many assignments there are.
    :param pacer: Knows how many the key allows, and when the next may go.
    :param log: The task's logger.
    """

    def __init__(self, to_send: int, pacer: RateLimiter, log: Any) -> None:
        self.counts: Counter[str] = Counter()
        self._failures: list[dict[str, Any]] = []
        self._invalid: list[dict[str, Any]] = []
        self.undone: Counter[str] = Counter()
        """The outcomes that are not as they should be, without those of invalid rows."""
        self.stopped_by: SplashifyError | None = None
        self.last_failure: SplashifyError | None = None
        self.last_rejection: SplashifyError | None = None
        self._to_send, self._pacer, self._log = to_send, pacer, log
        self._started = self._logged = time.monotonic()
        self._sent_when_logged = 0

    def add(self, outcome: AssignmentOutcome, *, is_done: bool) -> None:
        """Count one outcome.

        :param outcome: The outcome.
        :param is_done: Whether it is as it should be.
        """
        self.counts[outcome.outcome] += 1
        if is_done:
            return
        self.stopped_by = outcome.stopped_by or self.stopped_by
        listed = self._failures
        if outcome.outcome == "invalid":
            listed = self._invalid
        else:
            self.undone[outcome.outcome] += 1
            if outcome.outcome == "failed":
                self.last_failure = outcome.error
            else:
                self.last_rejection = outcome.error
        if len(listed) < _MOST_FAILURES:
            listed.append(
                {
                    "position": outcome.position,
                    "user_phone_number": mask_phone_number(outcome.user_phone_number),
                    "agent_email": outcome.agent_email,
                    "outcome": outcome.outcome,
                    "message": outcome.message,
                }
            )

    @property
    def failures(self) -> list[dict[str, Any]]:
        """At most 100, numbers masked: the first of those that were sent, then the first of the invalid rows."""
        return (self._failures + self._invalid)[:_MOST_FAILURES]

    def log_if_due(self) -> None:
        """Log a line every ten seconds."""
        now = time.monotonic()
        if now - self._logged < _SECONDS_BETWEEN_LINES:
            return
        sent = self.counts.total() - self.counts["invalid"]
        rate = (sent - self._sent_when_logged) / (now - self._logged)
        self._logged, self._sent_when_logged = now, sent
        left, wait = self._to_send - sent, self._pacer.wait
        if wait:
            seconds = self._pacer.seconds_for(left)
        else:  # it is fast now, but not beyond the present burst
            seconds = max(left / rate if rate else 0.0, self._pacer.seconds_for(self._to_send) - (now - self._started))
        outcomes = [item for item in self.counts.most_common() if item[0] != "invalid"]  # was never to be sent
        self._log.info(
            "%s of %s (%.0f %%): %s. %s, %s left.",
            f"{sent:,}",
            f"{self._to_send:,}",
            100 * sent / max(1, self._to_send),
            ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes) or "no answer yet",
            f"Waiting for the limit, {self._pacer.requests_per_minute:,} a minute" if wait else f"{rate:.1f} a second",
            f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s" if wait or rate else "unknown time",
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
        # Those that were not attempted all say the same, and invalid rows have been logged before.
        told = [failure for failure in self._failures if failure["outcome"] != "not_attempted"]
        for failure in told[:_MOST_FAILURES_IN_LOG]:
            self._log.warning("Row %s %s: %s", failure["position"], failure["outcome"], failure["message"])
