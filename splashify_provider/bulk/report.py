"""What a batch leaves behind for people: a line for every row."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, cast

from splashify_provider.bulk.record import KEY_SIZE, key_of
from splashify_provider.exceptions import SplashifyConfigurationError
from splashify_provider.redaction import mask_phone_number, quote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from splashify_provider.bulk.record import Earlier
    from splashify_provider.hooks.batch import Assignment, AssignmentOutcome

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_UPLOADS = 30.0
_UPLOAD_PAUSE = 20.0  # times as long as the last upload took: the batch waits for each, and the file grows


class Report:
    """One JSON line for every row, written as it goes.

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
        self._own_key = hashlib.blake2b(b"finished", key=secret, digest_size=KEY_SIZE // 2).hexdigest()
        self._stream: IO[str]
        self._is_broken = False
        self._upload_at = time.monotonic() + _SECONDS_BETWEEN_UPLOADS

    def read(self, earlier: Earlier) -> None:
        """Tell what earlier tries of the same task have done; another task's keys mean nothing.

        :param earlier: Told.
        :raises SplashifyConfigurationError: If it can't be read.
        """
        with self._must_be_usable():
            if not self._exists():
                return
            with self._open("r") as stream:
                for line in stream:
                    try:
                        entry = json.loads(line)
                        outcome, key = entry["outcome"], str(entry["key"])
                        if key == self._own_key:
                            earlier.clear()
                        elif outcome in ("assigned", "conversation_not_found"):
                            earlier.note(key)
                        else:  # it may have changed who has the number
                            earlier.drop(key)
                    except (ValueError, KeyError, TypeError):  # a line that was cut off, or somebody else's
                        continue

    def open(self, *, append: bool, outdated: list[str]) -> None:
        """Begin to write, and find out whether that is possible.

        :param append: Keep what an earlier try has written.
        :param outdated: Keys of numbers that are about to change: forgotten before they are sent.
        :raises SplashifyConfigurationError: If it can't be written.
        """
        with self._must_be_usable():
            if self._is_local:
                path = Path(self._path.path)
                path.parent.mkdir(parents=True, exist_ok=True)
                self._stream = path.open("a+" if append else "w", encoding="utf-8", errors="backslashreplace")
                if append:
                    _drop_a_line_that_was_cut_off(path)
            else:
                self._stream = tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
                if append and self._exists():
                    with self._open("r") as earlier:
                        self._stream.writelines(earlier)
            for key in outdated:
                self._write_line({"outcome": "outdated", "time": _now(), "key": key})
            if not self._is_local:
                self._upload()

    def write(self, outcome: AssignmentOutcome) -> None:
        """Write the line of a row.

        :param outcome: What became of it.
        """
        entry = self._entry(outcome, outcome.outcome, outcome.message)
        if outcome.outcome != "invalid":  # or it would say something of the number that it resembles
            entry["key"] = key_of(outcome, self._secret, outcome.outcome)
        self._try_to_write_line(entry)

    def write_done(self, item: Assignment) -> None:
        """Write the line of a row that an earlier try has done.

        :param item: The row.
        """
        self._try_to_write_line(self._entry(item, "done_before", "Done by an earlier try."))

    def write_duplicate(self, item: Assignment, first: int) -> None:
        """Write the line of a row that is not sent.

        :param item: The row.
        :param first: The position of the one that is.
        """
        self._try_to_write_line(self._entry(item, "duplicate", f"Row {first} gives the same number to the same agent."))

    def finish(self) -> None:
        """Note that the batch is complete: whoever clears the task wants it sent again."""
        self._try_to_write_line({"outcome": "finished", "time": _now(), "key": self._own_key})

    def close(self) -> Exception | None:
        """End the report.

        :return: What kept it from being written whole. Not raised: it must not hide why a batch failed.
        """
        try:
            with self._stream:
                if not self._is_local:
                    self._upload()
        except Exception as error:
            return error
        return None

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
        self._stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._stream.flush()

    def _try_to_write_line(self, entry: dict[str, Any]) -> None:
        try:
            self._write_line(entry)
            if not self._is_local and time.monotonic() > self._upload_at:
                self._upload()
            self._is_broken = False
        except Exception as error:  # must not end a batch under way; what is buffered has another go
            if not self._is_broken:
                log.warning("The report could not be written (%s); the batch goes on.", quote(error))
            self._is_broken = True

    @contextmanager
    def _must_be_usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._is_local:  # waiting may heal that
                raise
            raise SplashifyConfigurationError(
                f"The report {self._path} can't be used: {quote(error)}. Nothing was sent. Correct report_path, then "
                "clear this task."
            ) from None

    def _exists(self) -> bool:
        # Not the path's own exists(): without its connection, Airflow 3.3's asks the store with none at all.
        return bool(self._path.fs.exists(self._path.path))

    def _open(self, mode: str) -> IO[str]:
        # Not the path's own open(): what that gives can't be iterated on Airflow 2.11.
        stream = self._path.fs.open(self._path.path, mode, encoding="utf-8", errors="backslashreplace")
        return cast("IO[str]", stream)

    def _upload(self) -> None:
        started = time.monotonic()
        self._stream.seek(0)
        try:
            with self._open("w") as target:
                target.writelines(self._stream)
        finally:
            self._stream.seek(0, os.SEEK_END)
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
