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
_MOST_PROBLEMS_KEPT = 1000
_MOST_PROBLEMS_IN_ERROR = 20
_ROWS_BETWEEN_TICKS = 1000


@dataclass
class CheckedRows:
    """The rows of a batch, read and checked once.

    :param total: How many rows there are.
    :param assignments: By number, the first row of each.
    :param duplicates: Rows that say the same as an earlier one, each with that one.
    :param invalid: The outcomes of the rows that can't be sent.
    :param conflicts: How many rows give a number to another agent than an earlier one.
    :param conflicting_rows: The first thousand of those, in words.
    """

    total: int = 0
    assignments: dict[str, Assignment] = field(default_factory=dict, repr=False)
    duplicates: list[tuple[Assignment, Assignment]] = field(default_factory=list)
    invalid: list[AssignmentOutcome] = field(default_factory=list)
    conflicts: int = 0
    conflicting_rows: list[str] = field(default_factory=list)

    def refuse_bad_rows(self, log: Any, *, skip_invalid: bool) -> None:
        """Log every row that can't be sent, and refuse the batch for all of them at once.

        :param log: The task's logger.
        :param skip_invalid: Whether the batch goes on without invalid rows.
        :raises SplashifyConfigurationError: Naming the first of them.
        """
        for problem in self.conflicting_rows:
            log.error("%s", problem)
        invalid_rows = list(map(_in_words, self.invalid[:_MOST_PROBLEMS_KEPT]))
        for problem in invalid_rows:
            (log.warning if skip_invalid else log.error)("%s", problem)
        bad, problems = self.conflicts, self.conflicting_rows
        if not skip_invalid:
            bad, problems = bad + len(self.invalid), problems + invalid_rows
        if not bad:
            return
        shown = problems[:_MOST_PROBLEMS_IN_ERROR]
        more = f" … and {bad - len(shown):,} more; the log has the first thousand." if bad > len(shown) else ""
        remedies = {} if skip_invalid else dict.fromkeys(item.message.partition("\n")[2] for item in self.invalid)
        advice = "on_invalid='skip' goes on without invalid rows"
        if self.conflicts:
            advice += ", but not where one number is for two agents"
        raise SplashifyConfigurationError(
            f"{bad:,} of {plural(self.total, 'row')} can't be sent, so nothing was sent. {' '.join(shown)}{more}\n"
            f"Correct them, then clear this task ({advice}). {' '.join(filter(None, remedies))}".rstrip()
        )


@without_frames(AirflowException)  # by which a task that is told to stop ends
@without_frames(SplashifyError)
def check_rows(client: SplashifyClient, rows: Iterable[Any], on_tick: Callable[[], object]) -> CheckedRows:
    """Read and check all rows.

    :param client: See :func:`check_row`.
    :param rows: The rows.
    :param on_tick: Called every 1,000 rows. What it raises ends the reading.
    :return: The rows, checked.
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
        else:
            _add(checked, item)
    return checked


def _add(checked: CheckedRows, item: Assignment) -> None:
    first = checked.assignments.setdefault(item.user_phone_number, item)
    if first is item:
        return
    if first.agent_email.casefold() == item.agent_email.casefold():
        checked.duplicates.append((item, first))
        return
    checked.conflicts += 1
    if len(checked.conflicting_rows) < _MOST_PROBLEMS_KEPT:
        checked.conflicting_rows.append(
            f"Row {item.position} ({mask_phone_number(item.user_phone_number)}): for {item.agent_email}, but row "
            f"{first.position} gives the same number to {first.agent_email}."
        )


def _in_words(item: AssignmentOutcome) -> str:
    reason = item.message.partition("\n")[0].replace(" Nothing was sent.", "")  # said once, of all of them
    return f"Row {item.position} ({mask_phone_number(item.user_phone_number)}): {reason}"
