"""What a batch leaves behind for people: a line for every row."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, cast

from splashify_provider.bulk.sources import is_local, refuse_special_file
from splashify_provider.exceptions import SplashifyConfigurationError
from splashify_provider.redaction import mask_phone_number, redact

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from splashify_provider.bulk.assignment import Assignment, AssignmentOutcome
    from splashify_provider.bulk.preflight import CheckedRows

log = logging.getLogger(__name__)


class Report:
    """One JSON line for every row, added to what is there as it goes. Nothing reads it but people.

    On the worker's own file system each line is there at once. Other stores take whole files only: there it is written
    at the end.

    :raises SplashifyConfigurationError: If it can't be written.
    """

    def __init__(self, path: str, phone_numbers: Literal["masked", "full"]) -> None:
        from airflow.providers.common.compat.sdk import ObjectStoragePath

        self._is_full, self._is_local = phone_numbers == "full", True
        self._error: Exception | None = None
        with self._must_be_usable(path):
            self._path = ObjectStoragePath(path)
            self._is_local = is_local(self._path)
            self._stream = self._open_local() if self._is_local else self._open_copy()
            if self._stream.tell() and not self._ends_with_a_whole_line():
                self._stream.write("\n")  # after what a worker that was killed has left

    def write_unsent(self, checked: CheckedRows, done_before: Iterable[AssignmentOutcome]) -> None:
        """Write the lines of the rows that are not sent."""
        for outcome in checked.invalid:
            self.write(outcome, outcome.outcome, outcome.message)
        for item, first in checked.duplicates:
            self.write(item, "duplicate", f"Row {first.position} says the same of this number.")
        for outcome in done_before:
            self.write(outcome, "done_before", outcome.message)

    def write(self, item: Assignment | AssignmentOutcome, outcome: str, message: str) -> None:
        """Write the line of a row. If that fails, the batch goes on, and :meth:`close` says so."""
        phone = item.user_phone_number
        entry = {
            "position": item.position,
            "user_phone_number": phone if self._is_full else mask_phone_number(phone),
            "agent_email": item.agent_email,
            "outcome": outcome,
            "message": message,
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        }
        try:
            self._stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
            self._stream.flush()
        except Exception as error:
            if self._error is None:
                log.warning("The report could not be written (%s); the batch goes on.", redact(error))
            self._error = self._error or error

    def close(self) -> Exception | None:
        """End the report. Return what kept it from being written whole: it must not hide why a batch failed."""
        try:
            with self._stream:
                if not self._is_local:
                    self._upload()
        except Exception as error:
            return self._error or error
        return self._error

    def _open_local(self) -> IO[str]:
        refuse_special_file(self._path.path)
        path = Path(self._path.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+", encoding="utf-8", errors="backslashreplace")

    def _open_copy(self) -> IO[str]:
        # Not the path's own exists(): without its connection, Airflow 3.3's asks the store with none at all.
        is_there = self._path.fs.exists(self._path.path)
        self._stream = tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        if is_there:
            with self._open_in_store("r") as before:
                self._stream.writelines(before)
        self._upload()  # to find out now whether that works
        return self._stream

    def _ends_with_a_whole_line(self) -> bool:
        self._stream.flush()
        return os.pread(self._stream.fileno(), 1, os.fstat(self._stream.fileno()).st_size - 1) == b"\n"

    def _open_in_store(self, mode: str) -> IO[str]:
        # Not the path's own open(): what that gives can't be iterated on Airflow 2.11.
        stream = self._path.fs.open(self._path.path, mode, encoding="utf-8", errors="backslashreplace")
        return cast("IO[str]", stream)

    def _upload(self) -> None:
        self._stream.seek(0)
        with self._open_in_store("w") as target:
            target.writelines(self._stream)

    @contextmanager
    def _must_be_usable(self, path: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            if not self._is_local and isinstance(error, OSError):  # perhaps a transient one
                raise
            raise SplashifyConfigurationError(
                f"The report {redact(path)} can't be used: {redact(error)}. Nothing was sent.\n"
                "Correct report_path, then clear this task."
            ) from None
