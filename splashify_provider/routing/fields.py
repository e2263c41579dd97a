"""The fields of rosters and conversation tables, read as cursors and JSON give them, or refused all at once."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from zoneinfo import ZoneInfo

from dateutil.parser import isoparse

from splashify_provider.agent_email import is_agent_email
from splashify_provider.exceptions import RoutingError
from splashify_provider.redaction import mask_phone_number, plural, redact, safe_str

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WEEKDAY_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_TIME_OF_DAY = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d)(?:\.0+)?)?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_LIKE_A_DATE = re.compile(r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}")


def read_rows(
    rows: Iterable[object], kind_of: Callable[[Mapping[str, Any]], type[T]], types: tuple[type[T], ...], name: str
) -> list[T]:
    """Return mappings as objects; objects pass as they are.

    :param rows: Mappings with the fields of a type as keys (other keys are ignored), or objects.
    :param kind_of: Returns the type that a mapping is a row of, or raises ValueError with the reason it is none.
    :param types: The types that may pass.
    :param name: What the rows are called in errors, in the plural: ``shift 3: end is missing``.
    :return: The objects, in order.
    :raises RoutingError: Naming every bad row by position (1 is the first), field and reason.
    """
    if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
        raise RoutingError(f"{name} is {_a(rows)}, not a list of rows.")
    read: list[T] = []
    problems: list[str] = []
    for position, row in enumerate(rows, start=1):
        place = f"{name.removesuffix('s')} {position}"
        if isinstance(row, types):
            read.append(row)
        elif (by_name := _by_name(row)) is not None:
            try:
                read.append(_from_mapping(kind_of(by_name), by_name))
            except ValueError as error:
                of_row = error.problems if isinstance(error, RoutingError) else [str(error)]
                problems += [f"{place}: {problem}{_whose(by_name, problem)}" for problem in of_row]
        else:
            problems.append(f"{place} is {_a(row)}, not a mapping: rows need column names (see fetch_rows_handler)")
    if problems:
        refuse(f"the {name}", problems)
    return read


def _whose(row: Mapping[str, Any], problem: str) -> str:
    """Name whose row it is, to find it again: its position is only that in a query's result."""
    for name, show in (("user_phone_number", lambda value: mask_phone_number(str(value))), ("agent_email", redact)):
        if not is_missing(row.get(name)) and not problem.startswith(name):
            return f" (in the row of {show(row[name])})"
    return ""


def _by_name(row: Any) -> dict[str, Any] | None:
    """Return a row's values by column in small letters (some databases shout), or None where columns have no names.

    A row is a mapping, or what database drivers give instead: sqlite3's and psycopg2's rows, SQLAlchemy's with its
    mapping.
    """
    row = getattr(row, "_mapping", row)
    if not hasattr(row, "keys") or not hasattr(row, "__getitem__"):
        return None
    return {str(key).lower(): row[key] for key in row.keys()}  # noqa: SIM118 - sqlite3.Row iterates over values


def _from_mapping(kind: type[T], row: Mapping[str, Any]) -> T:
    known: dict[str, Any] = {}
    columns: dict[str, tuple[str, str]] = {}  # by field: where it stands in the row, and its other name
    for field in fields(kind):  # type: ignore[arg-type]  # all kinds are dataclasses
        also = field.metadata.get("also", "")
        column = _column(row, field.name, also)
        columns[field.name] = column, also
        if not is_missing(value := row.get(column)):
            known[field.name] = value
        elif field.default is MISSING:
            known[field.name] = None
    try:
        return kind(**known)
    except RoutingError as error:
        error.problems[:] = _by_column(error.problems, row, columns)
        raise


def _column(row: Mapping[str, Any], name: str, also: str) -> str:
    """Return which of its two names a row has a field under."""
    there = [column for column in (name, also) if column in row]
    given = [column for column in there if not is_missing(row[column])]
    if len(given) > 1 and not _are_same(row[name], row[also]):
        raise ValueError(f"{name} ({_shown(row[name])}) and {also} ({_shown(row[also])}) differ: leave one out")
    return [*given, *there, name][0]


def _are_same(value: object, other: object) -> bool:
    try:
        return moment(value) == moment(other)
    except ValueError:
        return safe_str(value) == safe_str(other)


def _by_column(problems: list[str], row: Mapping[str, Any], columns: Mapping[str, tuple[str, str]]) -> list[str]:
    """Name a row's own columns in its problems, and all of them where one may be there under another name."""
    shown = []
    more = [f"its columns: {redact(', '.join(row))}"]
    for problem in problems:
        name, rest = problem.split(" ", 1)
        column, also = columns[name]
        hints: list[str] = []
        if rest.startswith("is missing") and column not in row:
            hints, more = [*([f"{also} would do, too"] if also else []), *more], []  # the columns once
        shown.append(f"{column} {rest}" + (f" ({'; '.join(hints)})" if hints else ""))
    return shown


def convert(row: object, **converters: Callable[[Any], object]) -> None:
    """Replace a new object's fields by what they mean, in its ``__post_init__``.

    :param row: The (frozen) object.
    :param converters: For each field, what reads its value or raises ValueError with the reason.
    :raises RoutingError: Naming every field that can't be read.
    """
    problems = []
    for name, converter in converters.items():
        try:
            object.__setattr__(row, name, converter(getattr(row, name)))
        except ValueError as error:
            problems.append(f"{name} {'. '.join(str(error).splitlines())}")
        except (TypeError, ArithmeticError):  # what no reader expects, such as a signalling NaN
            problems.append(f"{name} is {_a(getattr(row, name))} that can't be read")
    if problems:
        refuse(f"this {type(row).__name__}", problems)


def refuse(where: str, problems: Iterable[str]) -> NoReturn:
    """Raise the error that lists problems.

    :param where: What has them, such as ``this Shift``.
    :param problems: Each with its place and reason.
    :raises RoutingError: In any case.
    """
    problems = list(problems)
    raise RoutingError(f"{plural(len(problems), 'problem')} in {where}:", problems)


def is_missing(value: object) -> bool:
    """Check whether a value is what databases, JSON and data frames put where there is nothing.

    :param value: A field's value.
    :return: Whether it is None, NaN or blank text.
    """
    try:
        return value is None or bool(value != value) or (isinstance(value, str) and not value.strip())
    except (TypeError, ValueError, ArithmeticError):  # pandas.NA has no truth; a list of NaN has many
        return type(value).__name__ == "NAType"


def email_address(value: object) -> str:
    """Return an agent's address.

    :param value: The address; blanks around it are dropped.
    :return: The address, spelled as it was.
    :raises ValueError: If it is missing, or not what the sender accepts.
    """
    if is_missing(value):
        raise ValueError("is missing")
    text = str(value).strip()
    if not isinstance(value, str) or not is_agent_email(text):
        raise ValueError(f"is {no_address(text)}")
    return text


def no_address(text: str) -> str:
    """Return what errors say of a text that is no address.

    :param text: The text.
    :return: The text in quotes, with its other letters than ASCII's escaped: some only look like those.
    """
    shown = redact(text).encode("ascii", "backslashreplace").decode().replace(r"\u2026", "…")
    return f"'{shown}', not an e-mail address{'' if text.isascii() else ' in ASCII'}"


def optional_email_address(value: object) -> str | None:
    """Return an agent's address, or None where it is missing.

    :param value: The address; blanks around it are dropped.
    :return: The address, or None.
    :raises ValueError: If it is no address: names would never match the roster's addresses.
    """
    return None if is_missing(value) else email_address(value)


def moment(value: object) -> datetime:
    """Return a point in time as a plain datetime in UTC.

    This is the one door for moments. Other types of datetime end here: a pendulum one, which Airflow gives, loses its
    zone in plain arithmetic (``astimezone(timezone.utc) + timedelta``).

    :param value: An aware datetime of any type, or ISO 8601 text with a UTC offset.
    :return: The same moment in UTC, where times can be compared and subtracted on any night.
    :raises ValueError: If it is missing, can't be read or has no offset.
    """
    if is_missing(value):
        raise ValueError("is missing")
    given: object = value
    if isinstance(value, str):
        try:
            given = isoparse(value.strip())
        except (ValueError, OverflowError):
            given = None
    if not isinstance(given, datetime):
        raise ValueError(
            f"is {_shown(value)!r}, not a time\nUse ISO 8601 with a UTC offset, such as 2026-11-22T06:00:00+01:00."
        )
    offset = given.utcoffset()
    if offset is None:
        raise ValueError(
            f"is {given.isoformat()}, without a UTC offset: which moment that is depends on where\nWrite it as "
            "2026-11-22T06:00:00+01:00, or use a timestamp with time zone."
        )
    clock = (given.year, given.month, given.day, given.hour, given.minute, given.second, given.microsecond)
    try:
        return datetime(*clock, tzinfo=timezone.utc) - offset
    except OverflowError:
        raise ValueError(f"is {given.isoformat()}, beyond the years 1 to 9999 in UTC") from None


def time_of_day(value: object) -> time:
    """Return a time of day on a wall clock.

    :param value: A naive time, ``"22:00"``, or the interval since midnight that MySQL gives. 24:00 is midnight.
    :return: The time.
    :raises ValueError: If it is missing or no time of day.
    """
    if is_missing(value):
        raise ValueError("is missing")
    if isinstance(value, timedelta) and timedelta(0) <= value <= timedelta(days=1):
        return (datetime.min + timedelta(seconds=value.total_seconds())).time()  # noqa: DTZ901 - a wall clock's
    if isinstance(value, str) and (match := _TIME_OF_DAY.fullmatch(value.strip())):
        hour, minute, second = (int(part or 0) for part in match.groups())
        if (hour, minute, second) == (24, 0, 0):
            return time(0)
        if hour < 24 and minute < 60 and second < 60:
            return time(hour, minute, second)
    if isinstance(value, time) and value.tzinfo is None:
        return time(value.hour, value.minute, value.second, value.microsecond)  # plain, whatever type it was
    raise ValueError(f"is {_shown(value)!r}, not a time of day such as 22:00 (the zone has a field of its own)")


def zone(value: object) -> tzinfo:
    """Return a time zone.

    :param value: An IANA name, a zone that has one (the standard library's, pendulum's or pytz's), or a fixed offset.
    :return: The zone, of the standard library's type.
    :raises ValueError: If it is missing or unknown.
    """
    if is_missing(value):
        raise ValueError("is missing: give the IANA name of the clock's zone, such as Europe/Berlin")
    try:
        return ZoneInfo(str(value).strip())  # as text, zones are their names
    except (KeyError, ValueError, OSError):  # unknown; not a name at all; a folder of names
        if isinstance(value, tzinfo) and (offset := value.utcoffset(None)) is not None:
            return timezone(offset)
        raise ValueError(f"is {redact(value)!r}, not a known zone: use an IANA name such as Europe/Berlin") from None


def weekdays(value: object) -> tuple[str, ...]:
    """Return days of the week.

    :param value: English names or their first three letters, in a list or separated by commas.
    :return: Three letters each, Monday first.
    :raises ValueError: If there are none, or one is no weekday.
    """
    names = [str(item).strip().lower() for item in _items(value)]
    if not names:
        raise ValueError("is missing: name at least one day, such as mon,tue,wed")
    for name in names:
        if name not in WEEKDAYS and name not in _WEEKDAY_NAMES:
            raise ValueError(f"has {redact(name)!r}, not one of {', '.join(WEEKDAYS)}")
    return tuple(day for day in WEEKDAYS if day in {name[:3] for name in names})


def dates(value: object) -> frozenset[date]:
    """Return days of the calendar.

    :param value: Dates or ISO 8601 text, in a list or separated by commas.
    :return: The dates.
    :raises ValueError: If one is no date.
    """
    read = set()
    for item in _items(value):
        text = item.isoformat()[:10] if isinstance(item, date) else str(item).strip()
        try:
            read.add(date.fromisoformat(text if _DATE.fullmatch(text) else ""))  # later Pythons read more than 3.10
        except ValueError:
            raise ValueError(f"has {_shown(item)!r}, not a date such as 2026-12-24") from None
    return frozenset(read)


def languages(value: object) -> tuple[str, ...]:
    """Return the languages somebody speaks.

    :param value: Names or tags (``en``, ``pt-BR``), in a list or separated by commas.
    :return: The languages.
    :raises ValueError: If it is neither text nor a list.
    """
    return tuple(redact(item) for item in _items(value))


def weight(value: object) -> float | None:
    """Return a relative capacity.

    :param value: A positive number, or text with one.
    :return: The number, or None where nothing is given.
    :raises ValueError: If it is anything else.
    """
    if is_missing(value):
        return None
    try:
        is_number = isinstance(value, (Real, Decimal, str)) and not isinstance(value, bool)
        number = float(value) if is_number else math.nan  # type: ignore[arg-type]  # checked in the line above
    except (ValueError, OverflowError):
        number = math.nan
    if not (0 < number < math.inf):
        raise ValueError(f"is {redact(value)!r}, not a positive number")
    return number


def _items(value: object) -> list[Any]:
    """Return a list's items, also of text that lists things: ``a, b``, or as JSON and PostgreSQL write arrays."""
    if is_missing(value):
        return []
    if isinstance(value, str):
        return [item for part in re.split(r"[,;|]", value.strip(" []{}")) if (item := part.strip(" \"'"))]
    if isinstance(value, date):
        return [value]
    if isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping)):
        return [item for item in value if not is_missing(item)]
    raise ValueError(f"is {redact(value)!r}, not a list")


def _a(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _shown(value: object) -> str:
    """Return a value as errors may show it; dates as they are, which could be taken for phone numbers."""
    if isinstance(value, (date, time)):
        return value.isoformat()
    text = safe_str(value)
    return text if _LIKE_A_DATE.fullmatch(text) else redact(text)
