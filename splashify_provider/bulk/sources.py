"""Where a batch's rows come from: a list, JSON text, or a file that is read as it is needed."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeGuard

from splashify_provider.exceptions import SplashifyConfigurationError
from splashify_provider.redaction import quote

COLUMNS = ("user_phone_number", "agent_email")


def rows_of(assignments: object) -> Callable[[], Iterator[Any]]:
    """Find out what ``assignments`` is.

    :param assignments: A list (or any other iterable) of mappings; the same as JSON text; or the path of a file: JSON
        Lines, or CSV with a header. Paths are whatever Airflow's ``ObjectStoragePath`` understands.
    :return: A function that starts to read the rows, from the first one, as often as it is called.
    :raises SplashifyConfigurationError: If it is none of these.
    """
    if isinstance(assignments, str):
        text = _text(assignments)
        if text.startswith(("[", "{")):
            return _rows_of_json(text).__iter__
        if not text or "\n" in text or text in ("None", "null"):
            raise SplashifyConfigurationError(
                f"assignments is neither JSON nor a path: {quote(text)!r}. Nothing was sent. If it is a template, "
                "check what it refers to."
            )
        return lambda: _rows_of_file(text)
    if _is_path(assignments):
        return lambda: _rows_of_file(assignments)
    if isinstance(assignments, Mapping) or not isinstance(assignments, Iterable):
        raise SplashifyConfigurationError(
            f"assignments must be a list of rows or the path of a file, not {type(assignments).__name__}. Nothing was "
            "sent. If it is another task's result, check what that task returned."
        )
    again = list(assignments) if iter(assignments) is assignments else assignments
    return lambda: iter(again)


def is_read_from(assignments: object, path: str) -> bool:
    """Tell whether rows come from this very file.

    :param assignments: What :func:`rows_of` takes.
    :param path: The file.
    :return: The answer.
    """
    given = _text(assignments) if isinstance(assignments, str) else assignments
    if not (isinstance(given, str) or _is_path(given)) or str(given).startswith(("[", "{")):
        return False
    return _place(given) == _place(path)


def _is_path(assignments: object) -> TypeGuard[os.PathLike[str]]:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    return isinstance(assignments, (os.PathLike, ObjectStoragePath))  # which is none in Airflow 3


def _place(path: str | os.PathLike[str]) -> tuple[str, str]:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    file = ObjectStoragePath(path)
    if file.protocol in ("", "file", "local"):
        return "file", os.path.realpath(file.path)
    return file.protocol, file.path


def _text(assignments: str) -> str:
    return assignments.strip().removeprefix("\ufeff").strip()  # as some editors begin a file


def _rows_of_json(text: str) -> list[Any]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        rows = None
    if not isinstance(rows, list):
        raise SplashifyConfigurationError(
            "assignments is text, but not a JSON list. Nothing was sent. In a template write {{ … | tojson }}, or set "
            "render_template_as_native_obj=True on the DAG."
        )
    return rows


def _rows_of_file(path: str | os.PathLike[str]) -> Iterator[Any]:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    try:
        file = ObjectStoragePath(path)
        # Not file.open(): what that gives can't be iterated on Airflow 2.11.
        with file.fs.open(file.path, "r", encoding="utf-8-sig", newline="") as stream:
            first = next((line for line in stream if line.strip()), "")
            lines = itertools.chain([first], stream)
            yield from _json_lines(lines) if first.lstrip().startswith("{") else _csv_rows(lines, first)
    except (FileNotFoundError, IsADirectoryError, PermissionError, UnicodeDecodeError, csv.Error) as error:
        what = {
            FileNotFoundError: "does not exist",
            IsADirectoryError: "is a directory",
            PermissionError: "may not be read here",
            UnicodeDecodeError: "is not UTF-8 text (in Excel: CSV UTF-8)",
        }.get(type(error))
        raise SplashifyConfigurationError(
            f"The file of assignments {quote(path)} {what or f'is not CSV ({quote(error)})'}. Mend that, then clear "
            "this task."
        ) from None


def _json_lines(lines: Iterable[str]) -> Iterator[Any]:
    for line in lines:
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield None  # no row: refused with its position


def _csv_rows(lines: Iterable[str], header: str) -> Iterator[dict[str, str | None]]:
    separator = max(",;\t", key=header.count)  # spreadsheets write what their country uses
    reader = csv.reader(lines, delimiter=separator, strict=True)  # or an open quote swallows the rest
    names = [name.strip().lower() for name in next(reader, [])]
    if missing := [column for column in COLUMNS if column not in names]:
        raise SplashifyConfigurationError(
            f"The file of assignments has no column {' and no column '.join(missing)}; its first line must be "
            f"the header, or each line a JSON object. Found: {quote(', '.join(names))}. Mend that, then clear "
            "this task."
        )
    if twice := [column for column in COLUMNS if names.count(column) > 1]:
        raise SplashifyConfigurationError(
            f"The file of assignments has more than one column {' and '.join(twice)}, so which one counts is anybody's "
            "guess. Mend that, then clear this task."
        )
    for values in reader:
        if any(values):
            yield dict(zip(names, itertools.chain(values, itertools.repeat(None)), strict=False))
