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

from splashify_provider.redaction import mask_phone_number, quote

if TYPE_CHECKING:
    from splashify_provider.hooks.batch import Assignment, AssignmentOutcome

log = logging.getLogger(__name__)

CHUNK = 200  # assignments; what a killed worker may have to send again
_SECONDS_BETWEEN_SAVES = 5.0
_SECONDS_BETWEEN_UPLOADS = 30.0
_PAGE = 1000  # keys in one value of the store, 16 characters each: well below its limit of 64 kB


def key_of(item: Assignment | AssignmentOutcome, secret: bytes) -> str:
    """Stand for a number and its agent without telling them.

    :param item: The assignment.
    :param secret: Without it, nobody can try all numbers.
    :return: 16 hexadecimal digits.
    """
    text = f"{item.user_phone_number} {item.agent_email.casefold()}"
    return hashlib.blake2b(text.encode(), key=secret, digest_size=8).hexdigest()


class Checkpoint:
    """What is done, in Airflow's task state store (3.3 and later), which outlives retries and clearing.

    :param store: The task's own.
    :param secret: What :func:`key_of` needs.
    """

    def __init__(self, store: Any, secret: bytes) -> None:
        self._store, self._secret = store, secret
        self._keys: list[str] = []
        while page := store.get(self._name(len(self._keys))):
            self._keys += [page[start : start + 16] for start in range(0, len(page), 16)]
            if len(self._keys) % _PAGE:
                break
        self._earlier = {int(key, 16) for key in self._keys}
        self._saved = len(self._keys)
        self._saved_at = time.monotonic()

    def is_done(self, item: Assignment) -> bool:
        """Tell whether an earlier try has done this very assignment."""
        return bool(self._earlier) and int(key_of(item, self._secret), 16) in self._earlier

    def add(self, outcome: AssignmentOutcome, in_flight: int) -> None:
        """Remember one that is done; saved with its chunk.

        :param outcome: What was done.
        :param in_flight: How many requests may be under way besides: they belong to the chunk.
        """
        self._keys.append(key_of(outcome, self._secret))
        if len(self._keys) - self._saved >= max(1, CHUNK - in_flight):
            self.save()

    def save_if_due(self) -> None:
        """Save what has been done in the last seconds."""
        if time.monotonic() - self._saved_at > _SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        """Save what is not saved yet. A store that fails costs the next try time, not this one its work."""
        self._saved_at = time.monotonic()
        try:
            while self._saved < len(self._keys):
                start = self._saved // _PAGE * _PAGE
                page = self._keys[start : start + _PAGE]
                self._store.set(self._name(start), "".join(page))
                self._saved = start + len(page)
        except Exception as error:
            log.warning("The checkpoint could not be saved (%s); a retry would repeat more.", quote(error))

    def forget(self) -> None:
        """Forget everything: the batch is complete, and whoever clears the task wants it sent again."""
        for start in range(0, self._saved, _PAGE):
            self._store.delete(self._name(start))

    @staticmethod
    def _name(start: int) -> str:
        return f"splashify_done_{start // _PAGE}"


class Report:
    """One JSON line for every assignment, written as it goes.

    On the worker's own file system each line is there at once. Other stores take whole files only: there it is
    renewed every half minute, and at the end.

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
        self._stream: IO[str] | None = None
        self._uploaded_at = time.monotonic()

    def done(self, outcomes: frozenset[str]) -> frozenset[str]:
        """Read what an earlier try of the same task has done.

        :param outcomes: Those that mean it.
        :return: Keys as of :func:`key_of`; another task's mean nothing here.
        """
        keys = set()
        if self._path.exists():
            with self._open("r") as stream:
                for line in stream:
                    try:
                        entry = json.loads(line)
                        if entry["outcome"] in outcomes:
                            keys.add(str(entry["key"]))
                    except (ValueError, KeyError, TypeError):  # a line that was cut off, or somebody else's
                        continue
        return frozenset(keys)

    def open(self, *, append: bool) -> None:
        """Begin to write.

        :param append: Keep what an earlier try has written.
        """
        if self._is_local:
            path = Path(self._path.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("a+" if append else "w", encoding="utf-8")
            if append:
                _drop_a_line_that_was_cut_off(path)
            return
        self._stream = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed by close()
        if append and self._path.exists():
            with self._open("r") as earlier:
                self._stream.writelines(earlier)

    def write(self, outcome: AssignmentOutcome) -> None:
        """Write one line.

        :param outcome: What to write.
        """
        phone = outcome.user_phone_number
        entry = {
            "position": outcome.position,
            "user_phone_number": phone if self._is_full else mask_phone_number(phone),
            "agent_email": outcome.agent_email,
            "outcome": outcome.outcome,
            "message": outcome.message,
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "key": key_of(outcome, self._secret),
        }
        if self._stream is not None:
            self._stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
            self._stream.flush()
            if not self._is_local and time.monotonic() - self._uploaded_at > _SECONDS_BETWEEN_UPLOADS:
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

    def _open(self, mode: str) -> IO[str]:
        # Not the path's own open(): what that gives can't be iterated on Airflow 2.11.
        return cast("IO[str]", self._path.fs.open(self._path.path, mode, encoding="utf-8"))

    def _upload(self, stream: IO[str]) -> None:
        self._uploaded_at = time.monotonic()
        stream.seek(0)
        try:
            with self._open("w") as target:
                target.writelines(stream)
        finally:
            stream.seek(0, os.SEEK_END)


def _drop_a_line_that_was_cut_off(path: Path) -> None:
    with path.open("rb+") as stream:
        end = stream.seek(0, os.SEEK_END)
        tail = min(end, 65536)
        stream.seek(end - tail)
        stream.truncate(end - tail + stream.read().rfind(b"\n") + 1)
