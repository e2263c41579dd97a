"""All that can be known about a batch before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException

from splashify_provider.bulk.assignment import Assignment, AssignmentOutcome, check_row, plural
from splashify_provider.exceptions import SplashifyConfigurationError, SplashifyError
from splashify_provider.redaction import mask_phone_number, without_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from splashify_provider.client import SplashifyClient

MOST_ROWS = 1_000_000
MOST_IN_FLIGHT = 64
_MOST_IN_LOG, _MOST_IN_ERROR = 1000, 20
_ROWS_BETWEEN_TICKS = 1000


def check_limits(max_in_flight: object, max_consecutive_failures: object) -> None:
    """Raise a SplashifyConfigurationError for limits that no batch can keep to."""
    for name, value, most in (
        ("max_in_flight", max_in_flight, MOST_IN_FLIGHT),
        ("max_consecutive_failures", max_consecutive_failures, 1_000_000),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise SplashifyConfigurationError(f"{name} must be a whole number from 1 to {most:,}, not {value!r}.")


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

        :raises SplashifyConfigurationError: Naming the first twenty, unless they may be skipped.
        """
        conflicts = [
            f"Row {row.position} ({mask_phone_number(row.user_phone_number)}): for {row.agent_email}, but row "
            f"{first.position} gives the same number to {first.agent_email}."
            for row, first in self.conflicts[:_MOST_IN_LOG]
        ]
        invalid = [
            f"Row {row.position} ({mask_phone_number(row.user_phone_number)}): "
            + row.message.partition("\n")[0].replace(" Nothing was sent.", "")  # said once, of all of them
            for row in self.invalid[:_MOST_IN_LOG]
        ]
        for problem in conflicts:
            log.error("%s", problem)
        for problem in invalid:
            (log.warning if skip_invalid else log.error)("%s", problem)
        refused = [] if skip_invalid else self.invalid
        if not (bad := len(self.conflicts) + len(refused)):
            return
        shown = (conflicts + ([] if skip_invalid else invalid))[:_MOST_IN_ERROR]
        if bad > len(shown):
            shown.append(f"… and {bad - len(shown):,} more; the log has the first thousand.")
        advice = "on_invalid='skip' goes on without invalid rows"
        if conflicts:
            advice += ", but not where one number is for two agents"
        remedies = dict.fromkeys(row.message.partition("\n")[2] for row in refused)
        raise SplashifyConfigurationError(
            f"{bad:,} of {plural(self.total, 'row')} can't be sent, so nothing was sent. {' '.join(shown)}\n"
            + " ".join(filter(None, [f"Correct them, then clear this task ({advice}).", *remedies]))
        )


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
