"""What a batch leaves behind for its next try."""

from __future__ import annotations

import hashlib
import logging
import time
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException

from splashify_provider.bulk.numbers import Numbers
from splashify_provider.redaction import quote

if TYPE_CHECKING:
    from splashify_provider.hooks.batch import Assignment, AssignmentOutcome

log = logging.getLogger(__name__)

CHUNK = 200  # assignments; what a killed worker may have to send again
_SECONDS_BETWEEN_SAVES = 5.0
_SECONDS_AFTER_A_FAILED_SAVE = 60.0
_PAGE = 1000  # keys in one value of the store: well below its limit of 64 kB
_NUMBER, _AGENT = 14, 8  # hexadecimal digits of a key
KEY_SIZE = _NUMBER + _AGENT
_NOBODY = 0


def key_of(item: Assignment | AssignmentOutcome, secret: bytes, outcome: str = "assigned") -> str:
    """Stand for a number, its agent and what became of it without telling them.

    :param item: The assignment.
    :param secret: Without it, nobody can try all numbers.
    :param outcome: What became of it.
    :return: 14 hexadecimal digits for the number, and 8 for the agent and the outcome.
    """
    number = hashlib.blake2b(item.user_phone_number.encode(), key=secret, digest_size=_NUMBER // 2)
    text = f"{item.agent_email.casefold()} {outcome}"
    agent = hashlib.blake2b(text.encode(), key=secret, digest_size=_AGENT // 2)
    return number.hexdigest() + agent.hexdigest()


class Earlier:
    """Who has which number by what earlier tries have done, as hashes.

    :param secret: What :func:`key_of` needs.
    :param outcomes: Those that mean that an assignment is done.
    """

    def __init__(self, secret: bytes, outcomes: frozenset[str]) -> None:
        self._secret, self._outcomes = secret, outcomes
        self._agents = Numbers()
        self.is_empty = True
        """Whether they have left nothing."""
        self.outdated: list[str] = []
        """Keys of numbers that :meth:`is_done` found planned for somebody else now."""

    def note(self, key: str) -> None:
        """Take in one key; a later one for the same number counts."""
        number, agent = int(key[:_NUMBER], 16), int(key[_NUMBER : _NUMBER + _AGENT], 16)
        if agent == _NOBODY:
            self._agents.discard(number)
        else:
            self._agents.set(number, agent)
            self.is_empty = False

    def drop(self, key: str) -> None:
        """Forget a key's number."""
        self._agents.discard(int(key[:_NUMBER], 16))

    def clear(self) -> None:
        """Forget everything."""
        self._agents.clear()
        self.is_empty = True

    def is_done(self, item: Assignment) -> bool:
        """Tell whether the number is with this agent already.

        If it is with another one, that is no longer so once this is sent, whatever becomes of it: it is outdated.
        """
        if self.is_empty:
            return False
        keys = [key_of(item, self._secret, outcome) for outcome in self._outcomes]
        agent = self._agents.get(int(keys[0][:_NUMBER], 16))
        if agent is None:
            return False
        is_done = agent in {int(key[_NUMBER:], 16) for key in keys}
        if not is_done:
            self.outdated.append(keys[0])
        return is_done


class Checkpoint:
    """What is done, in Airflow's task state store (3.3 and later), which outlives retries and clearing.

    A log: for each number its last entry counts.

    :param store: The task's own. Nothing else may be in it: it is cleared when the batch is complete.
    :param earlier: Told what is in it.
    :param secret: What :func:`key_of` needs.
    """

    def __init__(self, store: Any, earlier: Earlier, secret: bytes) -> None:
        self._store, self._secret = store, secret
        self._keys: list[str] = []  # of the page that is being filled, and of those that could not be saved
        self._start = self._saved = 0  # how many are before them; how many are saved
        self._is_unreadable = self._is_down = False
        self._saved_at = time.monotonic()
        try:
            self._read(earlier)
        except Exception as error:
            log.warning("The checkpoint could not be read (%s); everything is sent again.", quote(error))
            self._keys.clear()
            self._start = 0
            earlier.clear()
            self._is_unreadable = True
        self._saved = self._count

    @property
    def _count(self) -> int:
        return self._start + len(self._keys)

    def _read(self, earlier: Earlier) -> None:
        while page := self._store.get(self._name):
            self._keys = [page[start : start + KEY_SIZE] for start in range(0, len(page), KEY_SIZE)]
            for key in self._keys:
                earlier.note(key)
            if len(self._keys) < _PAGE:
                break
            self._turn_page()

    def _turn_page(self) -> None:
        del self._keys[:_PAGE]
        self._start += _PAGE

    def begin(self, outdated: list[str]) -> None:
        """Forget what is about to change, before it is sent: this worker may be killed right after.

        :param outdated: Keys of the numbers.
        :raises AirflowException: If that can't be noted: the next try might leave a number with the wrong agent.
        """
        self._keys += [key[:_NUMBER] + "0" * _AGENT for key in outdated]
        self.save()
        if outdated and self._is_down:
            text = (
                f"{len(outdated):,} of the assignments of an earlier try have another agent now, which can't be noted "
                "in Airflow's task state store. This try has sent nothing; the next one may find the store well."
            )
            log.error("%s", text)  # as every reason: Airflow 3's UI puts the stack trace below the text
            raise AirflowException(text)

    def add(self, outcome: AssignmentOutcome, in_flight: int) -> None:
        """Remember one that is done; saved with its chunk.

        :param outcome: What was done.
        :param in_flight: How many requests may be under way besides: they belong to the chunk.
        """
        self._keys.append(key_of(outcome, self._secret, outcome.outcome))
        if self._count - self._saved >= max(1, CHUNK - in_flight):
            self._save_unless_down()

    def save_if_due(self) -> None:
        """Save what has been done in the last seconds."""
        if time.monotonic() - self._saved_at > _SECONDS_BETWEEN_SAVES:
            self._save_unless_down()

    def _save_unless_down(self) -> None:
        # Each attempt takes Airflow's own retries, and the batch waits meanwhile.
        if not self._is_down or time.monotonic() - self._saved_at > _SECONDS_AFTER_A_FAILED_SAVE:
            self.save()

    def save(self) -> None:
        """Save what is not saved yet. A store that fails costs the next try time, not this one its work."""
        try:
            if self._is_unreadable:  # what is left of it must not be mixed with what comes now
                self._store.clear()
                self._is_unreadable = False
            while self._saved < self._count:
                page = self._keys[:_PAGE]
                self._store.set(self._name, "".join(page))
                self._saved = self._start + len(page)
                if len(page) == _PAGE:
                    self._turn_page()
            self._is_down = False
        except Exception as error:
            if not self._is_down:
                log.warning("The checkpoint could not be saved (%s); a retry would repeat more.", quote(error))
            self._is_down = True
        self._saved_at = time.monotonic()

    def forget(self) -> None:
        """Forget everything: the batch is complete, and whoever clears the task wants it sent again."""
        try:
            self._store.clear()  # at once: half a checkpoint would tell the next try something wrong
        except Exception as error:
            log.warning(
                "The batch is complete, but its checkpoint could not be removed (%s): clearing this task would send "
                "only what has changed.",
                quote(error),
            )

    @property
    def _name(self) -> str:
        return f"splashify_done_{self._start // _PAGE}"
