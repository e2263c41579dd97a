"""Where an operator's rows come from: a list, JSON text, or a file that is read row by row."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeGuard

from splashify_provider.exceptions import SplashifyConfigurationError
from splashify_provider.redaction import redact

COLUMNS = ("user_phone_number", "agent_email")
OPTIONAL_COLUMNS = ("fallback_agents",)
MOST_CHARACTERS = 10**9
LONGEST_LINE, LONGEST_PATH = 100_000, 4096
_FIX = "Fix it, then clear this task."
_LASTING = (FileNotFoundError, IsADirectoryError, PermissionError)


def rows_of(given: object, name: str = "assignments", columns: tuple[str, ...] = COLUMNS) -> Iterable[Any]:
    """Read the rows that an operator's argument stands for.

    :param given: A list, JSON text, or a path.
    :param name: The argument.
    :param columns: What a CSV file must have.
    :return: The rows, of a file one after another.
    :raises SplashifyConfigurationError: If it stands for none, or when a file turns out to be unreadable.
    """
    if isinstance(given, str):
        text = _text(given)
        if text.startswith(("[", "{")):
            return _rows_of_json(text, name)
        if not text or "\n" in text or len(text) > LONGEST_PATH or text in ("None", "null"):
            raise SplashifyConfigurationError(
                f"{name} is neither JSON nor a path: {redact(text)!r}. Nothing was sent.\nIf it is a template, "
                "check what it refers to."
            )
        return _rows_of_file(text, name, columns)
    if is_path(given):
        return _rows_of_file(given, name, columns)
    if isinstance(given, (Mapping, bytes)) or not isinstance(given, Iterable):
        raise SplashifyConfigurationError(
            f"{name} must be a list of rows or the path of a file, not {type(given).__name__}. Nothing was "
            "sent.\nIf it is another task's result, check what that task returned."
        )
    return given


def is_read_from(assignments: object, path: str) -> bool:
    """Check whether rows come from this very file."""
    given = _text(assignments) if isinstance(assignments, str) else assignments
    if not (isinstance(given, str) or is_path(given)) or str(given).startswith(("[", "{")):
        return False
    one, other = _place(given), _place(path)
    if one[0] == other[0] == "file" and os.path.exists(other[1]):  # under one name or two
        return os.path.exists(one[1]) and os.path.samefile(one[1], other[1])
    return one == other


def refuse_special_file(path: str) -> None:
    """Raise a SplashifyConfigurationError for devices and pipes: they may be read or written for ever."""
    if (file := Path(path)).exists() and not (file.is_file() or file.is_dir()):
        raise SplashifyConfigurationError(
            f"{redact(path)} is a device or a pipe, not a regular file. Nothing was sent.\n{_FIX}"
        )


def is_local(path: Any) -> bool:
    """Check whether an ``ObjectStoragePath`` is on this machine."""
    return path.protocol in ("", "file", "local")


def is_path(assignments: object) -> TypeGuard[os.PathLike[str]]:
    """Check whether a value is a path, of the standard library's or of Airflow's kind."""
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    return isinstance(assignments, (os.PathLike, ObjectStoragePath))  # which is none in Airflow 3


def _place(path: str | os.PathLike[str]) -> tuple[str, str]:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    try:
        file = ObjectStoragePath(path)
        return ("file", os.path.realpath(file.path)) if is_local(file) else (file.protocol, file.path)
    except ValueError:  # no path at all: whoever opens it says so
        return "", str(path)


def _text(assignments: str) -> str:
    return assignments.strip().removeprefix("\ufeff").strip()  # as some editors begin a file


def _rows_of_json(text: str, name: str) -> list[Any]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        rows = None
    if not isinstance(rows, list):
        raise SplashifyConfigurationError(
            f"{name} is text, but not a JSON list. Nothing was sent.\nIn a template write {{{{ … | tojson }}}}, or set "
            "render_template_as_native_obj=True on the DAG."
        )
    return rows


def _rows_of_file(path: str | os.PathLike[str], name: str, columns: tuple[str, ...]) -> Iterator[Any]:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    is_here = True
    try:
        file = ObjectStoragePath(path)
        if is_here := is_local(file):
            refuse_special_file(file.path)
        # Not file.open(): what that gives has no readline on Airflow 2.11.
        with file.fs.open(file.path, "r", encoding="utf-8-sig", newline="") as stream:
            lines = _lines(stream, name)
            first = next((line for line in lines if line.strip()), "")
            lines = itertools.chain([first], lines)
            yield from _json_lines(lines) if first.lstrip().startswith("{") else _csv_rows(lines, first, name, columns)
    except (OSError, ValueError, csv.Error) as error:
        if not is_here and isinstance(error, OSError) and not isinstance(error, _LASTING):  # perhaps a transient one
            raise
        what = {
            FileNotFoundError: "does not exist",
            IsADirectoryError: "is a directory",
            PermissionError: "may not be read here",
            UnicodeDecodeError: "is not UTF-8 text (in Excel: CSV UTF-8)",
            csv.Error: f"is not CSV ({redact(error)})",
        }.get(type(error), f"can't be read ({redact(error)})")
        raise _bad_file(name, f" {redact(path)} {what}") from None


def _bad_file(name: str, what: str) -> SplashifyConfigurationError:
    return SplashifyConfigurationError(f"The file of {name}{what}. Nothing was sent.\n{_FIX}")


def _lines(stream: IO[str], name: str) -> Iterator[str]:
    """Read lines, however long the file is or its first line."""
    characters = 0
    while line := stream.readline(LONGEST_LINE + 1):
        characters += len(line)
        if len(line) > LONGEST_LINE:
            raise _bad_file(name, f" has a line of more than {LONGEST_LINE:,} characters")
        if characters > MOST_CHARACTERS:
            raise _bad_file(name, f" has more than {MOST_CHARACTERS:,} characters")
        yield line


def _json_lines(lines: Iterable[str]) -> Iterator[Any]:
    for line in lines:
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield None  # no row: refused with its position


def _csv_rows(
    lines: Iterable[str], header: str, name: str, columns: tuple[str, ...]
) -> Iterator[dict[str, str | None]]:
    separator = max(",;\t", key=header.count)  # spreadsheets write what their country uses
    reader = csv.reader(lines, delimiter=separator, strict=True)  # or an open quote swallows the rest
    names = [column.strip().lower() for column in next(reader, [])]
    if missing := [column for column in columns if column not in names]:
        raise _bad_file(
            name,
            f" has no column {' and no column '.join(missing)}; its first line must be the header, or each line a "
            f"JSON object. Found: {redact(', '.join(names))}",
        )
    # Of a plan, any other column may be a field of its rows, too.
    that_count = (*COLUMNS, *OPTIONAL_COLUMNS) if columns == COLUMNS else tuple(filter(None, dict.fromkeys(names)))
    if twice := [column for column in that_count if names.count(column) > 1]:
        which = f"column {' and '.join(twice)}, so which one counts is anybody's guess"
        raise _bad_file(name, f" has more than one {which}")
    for values in reader:
        if any(values):
            yield dict(zip(names, itertools.chain(values, itertools.repeat(None)), strict=False))
