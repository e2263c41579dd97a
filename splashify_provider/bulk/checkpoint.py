"""What a batch leaves behind for its next try: who has which number, as hashes that only the API key can make."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from splashify_provider.redaction import redact
from splashify_provider.task_errors import retry_later

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow.providers.common.compat.sdk import AirflowException

    from splashify_provider.bulk.assignment import Assignment, AssignmentOutcome
    from splashify_provider.exceptions import Outcome

log = logging.getLogger(__name__)

CHUNK = 200
"""At most so many assignments are made and not saved: what a killed worker may have to repeat."""

_SECONDS_BETWEEN_SAVES = 5.0
_SECONDS_AFTER_A_FAILED_SAVE = 60.0  # each attempt takes Airflow's own retries, and the batch waits meanwhile
PAGE = 1000  # entries in one value of the store: well below its limit of 64 kB
_NUMBER, _AGENT = 14, 8  # hexadecimal digits of an entry
_ENTRY = _NUMBER + _AGENT
_NOBODY = "0" * _AGENT
_DONE: tuple[Outcome, ...] = ("assigned", "released", "conversation_not_found")


class Checkpoint:
    """What is done, in Airflow's task state store (3.3 and later), which outlives retries and clearing.

    A log in pages: of a number's entries the last one counts. No conversation is left with the wrong agent, since a
    number's entry is removed, and that is saved, before the number is sent again; and since nothing is sent where the
    store can't be read or written at the start.

    :param store: The task's own: nothing else may be in it. None before Airflow 3.3, where nothing is remembered.
    :param secret: Without it, nobody can find a number by trying all.
    :param max_in_flight: How many requests may be under way besides those that :meth:`add` was told of.
    :param clock: Gives the time in seconds, never going backwards.
    :raises AirflowException: If it can't be read.
    """

    def __init__(
        self, store: Any, secret: bytes, max_in_flight: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.is_kept = store is not None
        """Whether the next try will know of it."""
        self._store = store if self.is_kept else _Nowhere()
        self._secret, self._max_in_flight, self._clock = secret, max_in_flight, clock
        self._agents: dict[str, str] = {}  # by number, what earlier tries have done
        # The page that is being filled (and what is to fill the next ones), and how much of it is saved. The very
        # first entry tells whose it is: with another key or address, nothing of the rest holds.
        self._page, self._entries, self._saved = 0, [self._digest("", _ENTRY)], 0
        self._is_failing, self._save_at = False, clock() + _SECONDS_BETWEEN_SAVES
        try:
            self._read()
        except Exception as error:
            raise _unusable("read", error) from None

    def _read(self) -> None:
        mine = self._entries
        while entries := _entries_of(self._store.get(self._name)):
            if not self._page and entries[:1] != mine:
                log.warning("The checkpoint is of another plan, API key or Base URL; everything is sent again.")
                return
            for entry in entries[not self._page :]:
                self._agents[entry[:_NUMBER]] = entry[_NUMBER:]
            self._entries, self._saved = entries, len(entries)
            if len(entries) < PAGE:
                return
            self._turn_page()

    @property
    def is_empty(self) -> bool:
        """Whether earlier tries have done nothing, as far as is known."""
        return not set(self._agents.values()) - {_NOBODY}

    def done_before(self, item: Assignment) -> AssignmentOutcome | None:
        """Return what an earlier try has done with an assignment, and with which of its agents, if it is done."""
        entry = self._agents.get(self._number(item)) if self._agents else None
        if entry in (None, _NOBODY):
            return None
        for asked in range(1, len(item.agents) + 1):
            for outcome in _DONE:
                if entry == self._agent(item.agents[:asked], outcome):
                    done = item.ended(outcome, "Done by an earlier try.")
                    return replace(done, agent_email=item.agents[asked - 1])
        return None

    def begin(self, to_send: Iterable[Assignment]) -> None:
        """Forget all that is about to be sent, since this worker may be killed right after.

        :raises AirflowException: If that can't be saved.
        """
        try:
            if not self._saved and not self._page:  # what is there is not ours, or a log that lost its beginning
                self._store.clear()
            if self._agents:
                numbers = map(self._number, to_send)
                self._entries += [number + _NOBODY for number in numbers if number in self._agents]
            self._save()
        except Exception as error:
            raise _unusable("written", error) from None

    def add(self, outcome: AssignmentOutcome) -> None:
        """Note an assignment that is done, for the next save."""
        asked = (*outcome.refused, outcome.agent_email)
        self._entries.append(self._number(outcome) + self._agent(asked, outcome.outcome))

    def save_if_due(self) -> bool:
        """Save every few seconds, and before more than a chunk would be unsaved. To be called before each request.

        :return: Whether it was saved.
        :raises AirflowException: If a chunk is full and can't be saved.
        """
        unsaved = len(self._entries) - self._saved
        if not unsaved:
            return False
        is_full = unsaved + self._max_in_flight > CHUNK
        is_due = self._clock() >= self._save_at or (unsaved >= CHUNK // 2 and not self._is_failing)
        if not (is_full or is_due):
            return False
        error = self.save()
        if error and is_full:
            raise retry_later(
                f"Airflow's task state store can't be written ({redact(error)}), and {unsaved:,} assignments since the "
                "last time are as many as may have to be repeated. The batch ends here.",
                "A retry goes on from what is saved; if this lasts, look at Airflow's API server.",
            )
        return error is None

    def save(self) -> Exception | None:
        """Save what is not saved yet. Return what kept it from that: it must not hide why a batch ends."""
        try:
            self._save()
        except Exception as error:
            if not self._is_failing:
                log.warning("The checkpoint could not be saved (%s); a retry would repeat more.", redact(error))
            self._is_failing, self._save_at = True, self._clock() + _SECONDS_AFTER_A_FAILED_SAVE
            return error
        self._is_failing, self._save_at = False, self._clock() + _SECONDS_BETWEEN_SAVES
        return None

    def _save(self) -> None:
        while self._saved < len(self._entries):
            page = self._entries[:PAGE]
            self._store.set(self._name, "".join(page))
            self._saved = len(page)
            self._turn_page()

    def _turn_page(self) -> None:
        if self._saved == PAGE:
            del self._entries[:PAGE]
            self._page, self._saved = self._page + 1, 0

    def clear(self) -> None:
        """Forget everything: the batch is complete, and whoever clears the task wants all of it sent again.

        :raises AirflowException: If that can't be done.
        """
        try:
            self._store.clear()
        except Exception as error:
            raise retry_later(
                f"Everything is done, but Airflow's task state store can't be cleared ({redact(error)}): as long as "
                "the checkpoint is there, clearing this task would send only what has changed.",
                "A retry removes the checkpoint; at worst it sends everything again, which changes nothing.",
            ) from None

    @property
    def _name(self) -> str:
        return f"splashify_done_{self._page}"

    def _number(self, item: Assignment | AssignmentOutcome) -> str:
        return self._digest(item.user_phone_number, _NUMBER)

    def _agent(self, asked: Iterable[str | None], outcome: Outcome) -> str:
        # All who were asked, not only who has it: to whom a plan gives it in the first place, it is to go.
        return self._digest("\n".join([*(agent or "" for agent in asked), outcome]).casefold(), _AGENT)

    def _digest(self, text: str, size: int) -> str:
        return hashlib.blake2b(text.encode(), key=self._secret, digest_size=size // 2).hexdigest()


class _Nowhere:
    """The task state store of an Airflow that has none."""

    def get(self, _: str) -> None:
        pass

    def set(self, _: str, __: str) -> None:
        pass

    def clear(self) -> None:
        pass


def _entries_of(page: object) -> list[str]:
    if not isinstance(page, str) or not re.fullmatch(rf"(?:[0-9a-f]{{{_ENTRY}}})+", page):
        return []
    return [page[start : start + _ENTRY] for start in range(0, len(page), _ENTRY)]


def _unusable(what: str, error: Exception) -> AirflowException:
    return retry_later(
        f"Airflow's task state store can't be {what} ({redact(error)}), and without the checkpoint in it a "
        "conversation could stay with the wrong agent. This try has sent nothing.",
        "A retry tries again; if this lasts, look at Airflow's API server.",
    )
