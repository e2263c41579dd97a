"""What a batch leaves behind while it runs: the report for people, the checkpoint for the next try."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, cast

from splashify_provider.bulk.numbers import Numbers
from splashify_provider.redaction import mask_phone_number, quote

if TYPE_CHECKING:
    from splashify_provider.hooks.batch import Assignment, AssignmentOutcome

log = logging.getLogger(__name__)

CHUNK = 200  # assignments; what a killed worker may have to send again
_SECONDS_BETWEEN_SAVES = 5.0
_SECONDS_AFTER_A_FAILED_SAVE = 60.0
_SECONDS_BETWEEN_UPLOADS = 30.0
_UPLOAD_PAUSE = 20.0  # times as long as the last upload took: the batch waits for each, and the file grows
_PAGE = 1000  # keys in one value of the store, 22 characters each: well below its limit of 64 kB
_NUMBER, _AGENT = 14, 8  # hexadecimal digits of a key
_NOBODY = 0


def key_of(item: Assignment | AssignmentOutcome, secret: bytes) -> str:
    """Stand for a number and its agent without telling them.

    :param item: The assignment.
    :param secret: Without it, nobody can try all numbers.
    :return: 14 hexadecimal digits for the number, and 8 for the agent.
    """
    number = hashlib.blake2b(item.user_phone_number.encode(), key=secret, digest_size=_NUMBER // 2)
    agent = hashlib.blake2b(item.agent_email.casefold().encode(), key=secret, digest_size=_AGENT // 2)
    return number.hexdigest() + agent.hexdigest()


class Earlier:
    """Who has which number by what earlier tries have done, as hashes.

    :param secret: What :func:`key_of` needs.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._agents = Numbers()
        self._is_empty = True
        self.outdated: list[str] = []
        """Keys of numbers that :meth:`is_done` found planned for somebody else now."""

    def note(self, key: str) -> None:
        """Take in one key; a later one for the same number counts."""
        number, agent = int(key[:_NUMBER], 16), int(key[_NUMBER : _NUMBER + _AGENT], 16)
        if agent == _NOBODY:
            self._agents.discard(number)
        else:
            self._agents.set(number, agent)
            self._is_empty = False

    def drop(self, key: str) -> None:
        """Forget a key's number."""
        self._agents.discard(int(key[:_NUMBER], 16))

    def clear(self) -> None:
        """Forget everything."""
        self._agents.clear()

    def is_done(self, item: Assignment) -> bool:
        """Tell whether the number is with this agent already.

        If it is with another one, that is no longer so once this is sent, whatever becomes of it: forget it.
        """
        if self._is_empty:
            return False
        key = key_of(item, self._secret)
        agent = self._agents.get(int(key[:_NUMBER], 16))
        if agent is None:
            return False
        is_same = agent == int(key[_NUMBER:], 16)
        if not is_same:
            self.drop(key)
            self.outdated.append(key)
        return is_same


class Checkpoint:
    """What is done, in Airflow's task state store (3.3 and later), which outlives retries and clearing.

    A log: for each number its last entry counts.

    :param store: The task's own. Nothing else may be in it: it is cleared when the batch is complete.
    :param secret: What :func:`key_of` needs.
    """

    def __init__(self, store: Any, secret: bytes) -> None:
        self._store, self._secret = store, secret
        self._keys: list[str] = []  # of the page that is being filled, and of those that could not be saved
        self._start = self._saved = 0  # how many are before them; how many are saved
        self.earlier = Earlier(secret)
        """What earlier tries have done."""
        self._is_unreadable = self._is_down = False
        self._saved_at = time.monotonic()
        try:
            self._read()
        except Exception as error:
            log.warning("The checkpoint could not be read (%s); everything is sent again.", quote(error))
            self._keys.clear()
            self._start = 0
            self.earlier.clear()
            self._is_unreadable = True
        self._saved = self._count

    @property
    def _count(self) -> int:
        return self._start + len(self._keys)

    def _read(self) -> None:
        size = _NUMBER + _AGENT
        while page := self._store.get(self._name):
            self._keys = [page[start : start + size] for start in range(0, len(page), size)]
            for key in self._keys:
                self.earlier.note(key)
            if len(self._keys) < _PAGE:
                break
            self._turn_page()

    def _turn_page(self) -> None:
        del self._keys[:_PAGE]
        self._start += _PAGE

    def begin(self, outdated: list[str]) -> None:
        """Forget what is about to change, before it is sent: this worker may be killed right after.

        :param outdated: Keys of the numbers.
        """
        self._keys += [key[:_NUMBER] + "0" * _AGENT for key in outdated]
        self.save()

    def add(self, outcome: AssignmentOutcome, in_flight: int) -> None:
        """Remember one that is done; saved with its chunk.

        :param outcome: What was done.
        :param in_flight: How many requests may be under way besides: they belong to the chunk.
        """
        self._keys.append(key_of(outcome, self._secret))
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


class Report:
    """One JSON line for every assignment, written as it goes.

    On the worker's own file system each line is there at once. Other stores take whole files only: there it is
    renewed every half minute (less often once that takes long), and at the end.

    :param path: Where; anything ``ObjectStoragePath`` understands.
    :param phone_numbers: ``masked`` or ``full``.
    :param secret: What :func:`key_of` needs.
    """

    def __init__(self, path: str, phone_numbers: Literal["masked", "full"], secret: bytes) -> None:
        from airflow.providers.common.compat.sdk import ObjectStoragePath

        self._path = ObjectStoragePath(path)
        self._is_local = self._path.protocol in ("", "file", "local")
        self._is_full = phone_numbers == "full"
        self._secret = secret
        self._own_key = hashlib.blake2b(b"finished", key=secret, digest_size=(_NUMBER + _AGENT) // 2).hexdigest()
        self._stream: IO[str] | None = None
        self._upload_at = time.monotonic() + _SECONDS_BETWEEN_UPLOADS

    def earlier(self, outcomes: frozenset[str]) -> Earlier:
        """Read what earlier tries of the same task have done.

        :param outcomes: Those that mean it. Any other may have changed who has the number: it is not done.
        :return: What is done; another task's keys mean nothing here.
        """
        earlier = Earlier(self._secret)
        if self._exists():
            with self._open("r") as stream:
                for line in stream:
                    try:
                        entry = json.loads(line)
                        outcome, key = entry["outcome"], str(entry["key"])
                        if key == self._own_key:
                            earlier.clear()
                        elif outcome in outcomes:
                            earlier.note(key)
                        else:
                            earlier.drop(key)
                    except (ValueError, KeyError, TypeError):  # a line that was cut off, or somebody else's
                        continue
        return earlier

    def finish(self) -> None:
        """Note that the batch is complete: whoever clears the task wants it sent again."""
        self._write_line({"outcome": "finished", "time": _now(), "key": self._own_key})

    def open(self, *, append: bool, outdated: list[str]) -> None:
        """Begin to write.

        :param append: Keep what an earlier try has written.
        :param outdated: Keys of numbers that are about to change: forgotten before they are sent.
        """
        self._open_stream(append=append)
        for key in outdated:
            self._write_line({"outcome": "outdated", "time": _now(), "key": key})

    def _open_stream(self, *, append: bool) -> None:
        if self._is_local:
            path = Path(self._path.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("a+" if append else "w", encoding="utf-8")
            if append:
                _drop_a_line_that_was_cut_off(path)
            return
        self._stream = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed by close()
        if append and self._exists():
            with self._open("r") as earlier:
                self._stream.writelines(earlier)

    def write(self, outcome: AssignmentOutcome) -> None:
        """Write one line.

        :param outcome: What to write.
        """
        entry = self._entry(outcome, outcome.outcome, outcome.message)
        self._write_line({**entry, "key": key_of(outcome, self._secret)})

    def write_duplicate(self, item: Assignment, first: int) -> None:
        """Write one line for a row that is not sent.

        :param item: The row.
        :param first: The position of the one that is.
        """
        self._write_line(self._entry(item, "duplicate", f"Row {first} gives the same number to the same agent."))

    def _entry(self, item: Assignment | AssignmentOutcome, outcome: str, message: str) -> dict[str, Any]:
        phone = item.user_phone_number
        return {
            "position": item.position,
            "user_phone_number": phone if self._is_full else mask_phone_number(phone),
            "agent_email": item.agent_email,
            "outcome": outcome,
            "message": message,
            "time": _now(),
        }

    def _write_line(self, entry: dict[str, Any]) -> None:
        if self._stream is not None:
            self._stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
            self._stream.flush()
            if not self._is_local and time.monotonic() > self._upload_at:
                try:
                    self._upload(self._stream)
                except Exception as error:  # the end of the batch has another go
                    log.warning("The report could not be renewed (%s).", quote(error))

    def close(self) -> None:
        """End the report."""
        if self._stream is not None:
            if not self._is_local:
                self._upload(self._stream)
            self._stream.close()
            self._stream = None

    def _exists(self) -> bool:
        # Not the path's own exists(): without its connection, Airflow 3.3's asks the store with none at all.
        return bool(self._path.fs.exists(self._path.path))

    def _open(self, mode: str) -> IO[str]:
        # Not the path's own open(): what that gives can't be iterated on Airflow 2.11.
        return cast("IO[str]", self._path.fs.open(self._path.path, mode, encoding="utf-8"))

    def _upload(self, stream: IO[str]) -> None:
        started = time.monotonic()
        stream.seek(0)
        try:
            with self._open("w") as target:
                target.writelines(stream)
        finally:
            stream.seek(0, os.SEEK_END)
            ended = time.monotonic()
            self._upload_at = ended + max(_SECONDS_BETWEEN_UPLOADS, _UPLOAD_PAUSE * (ended - started))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _drop_a_line_that_was_cut_off(path: Path) -> None:
    with path.open("rb+") as stream:
        end = stream.seek(0, os.SEEK_END)
        tail = min(end, 65536)
        stream.seek(end - tail)
        stream.truncate(end - tail + stream.read().rfind(b"\n") + 1)
