"""Everything about a batch that can be known before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from splashify_provider.bulk.numbers import Numbers
from splashify_provider.exceptions import SplashifyConfigurationError
from splashify_provider.hooks.batch import Assignment, AssignmentOutcome
from splashify_provider.redaction import mask_phone_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from splashify_provider.hooks.splashify import SplashifyHook

_MOST_PROBLEMS_KEPT = 1000
_ROWS_BETWEEN_IDLE_CALLS = 1000
_AGENTS = 2**24  # more than there are


class CheckedRows:
    """A first reading of all rows, which keeps a number and a position of each and nothing else.

    :param rows: Starts to read the rows.
    :param hook: Checks them.
    :param is_done: Tells what an earlier try has done.
    :param on_idle: Called every 1,000 rows, in this reading and the next. What it raises ends it.
    """

    def __init__(
        self,
        rows: Callable[[], Iterator[Any]],
        hook: SplashifyHook,
        is_done: Callable[[Assignment], bool],
        on_idle: Callable[[], object],
    ) -> None:
        self._rows, self._hook, self._is_done, self._on_idle = rows, hook, is_done, on_idle
        self._first = Numbers()  # by phone number: the position that counts, times _AGENTS, plus its agent
        self._agents: dict[str, int] = {}
        self.total = self.duplicates = self.done = self.invalid = self.conflicts = 0
        # By position and reason, numbers masked; at most the first 1,000.
        self.invalid_rows: list[str] = []
        self.conflicting_rows: list[str] = []
        for position, item in self._read():
            self.total = position
            if isinstance(item, AssignmentOutcome):
                self.invalid += 1
                self._note(self.invalid_rows, self._invalid_text(item))
            else:
                self._add(item)

    @property
    def to_send(self) -> int:
        """How many assignments are to be sent."""
        return self.total - self.invalid - self.duplicates - self.conflicts - self.done

    def items(
        self, on_done: Callable[[Assignment], object], on_duplicate: Callable[[Assignment, int], object]
    ) -> Iterator[Assignment | AssignmentOutcome]:
        """Read the rows once more.

        :param on_done: Called with what is left out because an earlier try has done it.
        :param on_duplicate: Called with what is left out because an earlier row says the same, and that row's position.
        :return: What is to be sent, each number once, and the outcomes of invalid rows.
        :raises SplashifyConfigurationError: If the rows are not those of the first reading.
        """
        position = invalid = duplicates = 0
        for position, item in self._read():
            if isinstance(item, AssignmentOutcome):
                invalid += 1
                if invalid > self.invalid:
                    self._refuse_change(position)
                yield item
                continue
            first, agent = divmod(self._first.get(int(item.user_phone_number)) or 0, _AGENTS)
            duplicates += first < position
            is_known = 0 < first <= position and agent == self._agents.get(item.agent_email.casefold())
            if not is_known or duplicates > self.duplicates:
                self._refuse_change(position)
            if first < position:
                on_duplicate(item, first)
            elif self._is_done(item):
                on_done(item)
            else:
                yield item
        if position != self.total:
            self._refuse_change(position + 1)

    def _read(self) -> Iterator[tuple[int, Assignment | AssignmentOutcome]]:
        for position, row in enumerate(self._rows(), 1):
            if position % _ROWS_BETWEEN_IDLE_CALLS == 0:
                self._on_idle()
            yield position, self._hook.check(position, row)

    def _add(self, item: Assignment) -> None:
        agent = self._agents.setdefault(item.agent_email.casefold(), len(self._agents))
        number = int(item.user_phone_number)
        before = self._first.get(number)
        if before is None:
            self._first.set(number, item.position * _AGENTS + agent)
            self.done += self._is_done(item)
            return
        first, first_agent = divmod(before, _AGENTS)
        if first_agent == agent:
            self.duplicates += 1
        else:
            self.conflicts += 1
            if len(self.conflicting_rows) >= _MOST_PROBLEMS_KEPT:
                return
            other = list(self._agents)[first_agent]
            self._note(
                self.conflicting_rows,
                f"Row {item.position} ({mask_phone_number(item.user_phone_number)}): for {item.agent_email}, but row "
                f"{first} gives the same number to {other}.",
            )

    def _refuse_change(self, position: int) -> NoReturn:
        raise SplashifyConfigurationError(
            f"The assignments have changed since they were checked (row {position}): let nobody write to the file "
            "while this task runs, then clear it."
        )

    @staticmethod
    def _invalid_text(item: AssignmentOutcome) -> str:
        reason = item.message.replace(" Nothing was sent.", "")  # said once, of all of them
        return f"Row {item.position} ({mask_phone_number(item.user_phone_number)}): {reason}"

    @staticmethod
    def _note(problems: list[str], problem: str) -> None:
        if len(problems) < _MOST_PROBLEMS_KEPT:
            problems.append(problem)
