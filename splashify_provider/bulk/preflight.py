"""All that can be known about a batch before anything is sent."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import AirflowException

from splashify_provider.bulk.assignment import Assignment, AssignmentOutcome, check_release, check_row
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
    """The rows of a batch, releases behind assignments, read and checked once."""

    total: int = 0
    assignments: dict[str, Assignment] = field(default_factory=dict, repr=False)  # by number, the first row of each
    duplicates: list[tuple[Assignment, Assignment]] = field(default_factory=list)  # of an earlier row, with that one
    conflicts: list[tuple[Assignment, Assignment]] = field(default_factory=list)  # with an earlier row, with that one
    invalid: list[AssignmentOutcome] = field(default_factory=list)

    def refuse_bad_rows(self, log: Any, on_invalid: Literal["fail", "skip", "continue"]) -> None:
        """Log what is wrong with the first thousand bad rows, and refuse the batch for all of them at once.

        :param on_invalid: What to do about rows that are invalid: fail; go on, if others are left; go on in any case.
        :raises SplashifyConfigurationError: Naming the first three. Always where one number is for two agents.
        """
        conflicts = {
            row.position: (
                (
                    f"{_place(row)}: {_what(row, 'for {}', 'to be released')}, but row {first.position} "
                    f"{_what(first, 'gives the same number to {}', 'releases the same number')}."
                ),
                "",
            )
            for row, first in self.conflicts[:_MOST_IN_LOG]
        }
        invalid = {row.position: _reason_and_remedy(row) for row in self.invalid[:_MOST_IN_LOG]}
        has_others = bool(self.assignments or not self.invalid)
        is_fine = on_invalid == "continue" or (on_invalid == "skip" and has_others)
        for position, problem in sorted({**conflicts, **invalid}.items()):
            (log.warning if is_fine and position in invalid else log.error)("%s", " ".join(problem).rstrip())
        refused = conflicts if is_fine else {**conflicts, **invalid}
        bad = len(self.conflicts) + (0 if is_fine else len(self.invalid))
        if not bad:
            return
        advice = "" if on_invalid != "fail" else " (on_invalid='skip' goes on without invalid rows)"
        if conflicts:
            advice = " (on_invalid='skip' goes on without invalid rows, but not where one number is for two agents)"
        shown = [reason for _, (reason, _) in sorted(refused.items())[:_MOST_IN_ERROR]]
        more = f" … and {bad - len(shown):,} more; the log has the first thousand." if bad > len(shown) else ""
        raise SplashifyConfigurationError(
            f"{bad:,} of {plural(self.total, 'row')} can't be sent, so nothing was sent. {' '.join(shown)}{more}\n"
            f"Correct them, then clear this task{advice}."
        )


def _what(row: Assignment, assigned: str, released: str) -> str:
    return released if row.agent_email is None else assigned.format(row.agent_email)


def _reason_and_remedy(row: AssignmentOutcome) -> tuple[str, str]:
    reason, _, remedy = row.message.replace(" Nothing was sent.", "").partition("\n")  # said once, of all of them
    return f"{_place(row)}: {reason}", remedy


def _place(row: Assignment | AssignmentOutcome) -> str:
    number = mask_phone_number(row.user_phone_number).removeprefix("…")
    return f"Row {row.position}" + (f" (…{number})" if number else "")


@without_frames(AirflowException)  # by which a task that is told to stop ends
@without_frames(SplashifyError)
def check_rows(
    client: SplashifyClient,
    rows: Iterable[Any],
    on_tick: Callable[[], object],
    *,
    releases: Iterable[Any] = (),
    with_fallbacks: bool = True,
) -> CheckedRows:
    """Read and check all rows.

    :param releases: The numbers to release, or rows with ``user_phone_number``. Positions count on.
    :param with_fallbacks: Whether rows may say who is next in line.
    :param on_tick: Called every 1,000 rows. What it raises ends the reading.
    :raises SplashifyConfigurationError: If there are more than a million.
    """
    checked = CheckedRows()
    check_move = partial(check_row, client, with_fallbacks=with_fallbacks)
    moves = ((row, check_move) for row in rows)
    others = ((row, partial(check_release, client)) for row in releases)
    for position, (row, check) in enumerate(itertools.chain(moves, others), 1):
        if position > MOST_ROWS:
            raise SplashifyConfigurationError(
                f"There are more than {MOST_ROWS:,} rows. Nothing was sent.\nSplit them over several tasks; at 90 a "
                "minute, a million take eight days."
            )
        if position % _ROWS_BETWEEN_TICKS == 0:
            on_tick()
        checked.total = position
        item = check(position, row)
        if isinstance(item, AssignmentOutcome):
            checked.invalid.append(replace(item, error=None))  # which says what the message says
        elif (first := checked.assignments.setdefault(item.user_phone_number, item)) is not item:
            is_same = (first.agent_email or "").casefold() == (item.agent_email or "").casefold()
            (checked.duplicates if is_same else checked.conflicts).append((item, first))
    return checked
