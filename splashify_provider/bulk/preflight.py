"""All that can be known about a batch before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException

from splashify_provider.bulk.assignment import Assignment, AssignmentOutcome, check_row
from splashify_provider.exceptions import SplashifyConfigurationError, SplashifyError
from splashify_provider.redaction import mask_phone_number, plural, redact, without_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from splashify_provider.client import SplashifyClient

MOST_ROWS = 1_000_000
MOST_IN_FLIGHT = 64
_MOST_IN_LOG, _MOST_IN_ERROR = 1000, 3
_ROWS_BETWEEN_TICKS = 1000


def check_limits(max_in_flight: object, max_consecutive_failures: object) -> None:
    """Raise a SplashifyConfigurationError for limits that no batch can keep to."""
    for name, value, most in (
        ("max_in_flight", max_in_flight, MOST_IN_FLIGHT),
        ("max_consecutive_failures", max_consecutive_failures, 1_000_000),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise SplashifyConfigurationError(
                f"{name} must be a whole number from 1 to {most:,}, not {redact(repr(value))}."
            )


@dataclass
class CheckedRows:
    """The rows of a batch, read and checked once."""

    total: int = 0
    assignments: dict[str, Assignment] = field(default_factory=dict, repr=False)  # by number, the first row of each
    duplicates: list[tuple[Assignment, Assignment]] = field(default_factory=list)  # of an earlier row, with that one
    conflicts: list[tuple[Assignment, Assignment]] = field(default_factory=list)  # with an earlier row, with that one
    invalid: list[AssignmentOutcome] = field(default_factory=list)

    def refuse_bad_rows(self, log: Any, *, skip_invalid: bool) -> None:
        """Log what is wrong with the first thousand bad rows, and refuse the batch for all of them at once.

        :raises SplashifyConfigurationError: Naming the first three, unless they may be skipped and others are left.
        """
        conflicts = {
            row.position: (
                (
                    f"{_place(row)}: for {row.agent_email}, but row {first.position} gives the same number to "
                    f"{first.agent_email}."
                ),
                "",
            )
            for row, first in self.conflicts[:_MOST_IN_LOG]
        }
        invalid = {row.position: _reason_and_remedy(row) for row in self.invalid[:_MOST_IN_LOG]}
        is_fine = skip_invalid and (self.assignments or not self.invalid)
        for position, problem in sorted({**conflicts, **invalid}.items()):
            (log.warning if is_fine and position in invalid else log.error)("%s", " ".join(problem).rstrip())
        refused = conflicts if is_fine else {**conflicts, **invalid}
        bad = len(self.conflicts) + (0 if is_fine else len(self.invalid))
        if not bad:
            return
        advice = "" if skip_invalid else " (on_invalid='skip' goes on without invalid rows)"
        if conflicts:
            advice = " (on_invalid='skip' goes on without invalid rows, but not where one number is for two agents)"
        shown = [reason for _, (reason, _) in sorted(refused.items())[:_MOST_IN_ERROR]]
        more = f" … and {bad - len(shown):,} more; the log has the first thousand." if bad > len(shown) else ""
        raise SplashifyConfigurationError(
            f"{bad:,} of {plural(self.total, 'row')} can't be sent, so nothing was sent. {' '.join(shown)}{more}\n"
            f"Correct them, then clear this task{advice}."
        )


def _reason_and_remedy(row: AssignmentOutcome) -> tuple[str, str]:
    reason, _, remedy = row.message.replace(" Nothing was sent.", "").partition("\n")  # said once, of all of them
    return f"{_place(row)}: {reason}", remedy


def _place(row: Assignment | AssignmentOutcome) -> str:
    number = mask_phone_number(row.user_phone_number).removeprefix("…")
    return f"Row {row.position}" + (f" (…{number})" if number else "")


@without_frames(AirflowException)  # by which a task that is told to stop ends
@without_frames(SplashifyError)
def check_rows(client: SplashifyClient, rows: Iterable[Any], on_tick: Callable[[], object]) -> CheckedRows:
    """Read and check all rows.

    :param on_tick: Called every 1,000 rows. What it raises ends the reading.
    :raises SplashifyConfigurationError: If there are more than a million.
    """
    checked = CheckedRows()
    for position, row in enumerate(rows, 1):
        if position > MOST_ROWS:
            raise SplashifyConfigurationError(
                f"There are more than {MOST_ROWS:,} rows. Nothing was sent.\nSplit them over several tasks; at 90 a "
                "minute, a million take eight days."
            )
        if position % _ROWS_BETWEEN_TICKS == 0:
            on_tick()
        checked.total = position
        item = check_row(client, position, row)
        if isinstance(item, AssignmentOutcome):
            checked.invalid.append(replace(item, error=None))  # which says what the message says
        elif (first := checked.assignments.setdefault(item.user_phone_number, item)) is not item:
            is_same = first.agent_email.casefold() == item.agent_email.casefold()
            (checked.duplicates if is_same else checked.conflicts).append((item, first))
    return checked
