"""Rows by column name from any Airflow SQL hook, ready for XCom, and new agents written back to their table."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from numbers import Integral, Real
from typing import Any

from splashify_provider.exceptions import SplashifyConfigurationError
from splashify_provider.redaction import mask_phone_number, plural, redact, safe_str, without_frames
from splashify_provider.task_errors import retry_later

log = logging.getLogger(__name__)

MOST_ROWS = 1_000_000
_ROWS_AT_ONCE = 10_000
_WRITTEN, _WRITTEN_BEFORE, _MISSING = "written", "written before", "not in the table"
_PLACEHOLDERS = ("%s", "?")  # those that Airflow's hooks have
_MOVE = ("user_phone_number", "from_agent", "agent_email")
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TABLE = re.compile(rf"(?:{_COLUMN.pattern}\.){{0,2}}{_COLUMN.pattern}")


@without_frames(Exception)  # the rows
def fetch_rows_handler(cursor: Any) -> list[dict[str, Any]] | None:
    """Return a query's rows by column name, in JSON's types: the ``handler`` of a ``SQLExecuteQueryOperator``.

    Times become ISO 8601 text with the UTC offset that they have, intervals ``22:00:00``, decimals and UUIDs text, NaN
    and infinity None. Phone numbers are among the rows: leave the operator's ``show_return_value_in_logs`` off.

    Not for hooks that make rows of their own type from what a handler returns (ODBC, Databricks, SAP HANA).

    :param cursor: A DB-API cursor that has executed a statement; its rows may be tuples or mappings.
    :return: The rows; None if the statement has no result.
    :raises SplashifyConfigurationError: If two columns have one name (in small letters), there are more than a million
        rows, or a value is binary data.
    """
    if cursor.description is None:
        return None
    names = [str(column[0]) for column in cursor.description]
    small = [name.lower() for name in names]  # as they are looked up where rows are read
    if twice := sorted({name for name in small if small.count(name) > 1}):
        raise SplashifyConfigurationError(
            f"The query gives more than one column {redact(', '.join(twice))}: which one counts is anybody's guess.\n"
            "Select each column once, or rename one with AS."
        )
    rows: list[dict[str, Any]] = []
    while fetched := cursor.fetchmany(_ROWS_AT_ONCE):
        if len(rows) + len(fetched) > MOST_ROWS:
            raise SplashifyConfigurationError(
                f"The query gives more than {MOST_ROWS:,} rows.\nSelect only what is to be planned, such as the open "
                "conversations."
            )
        rows += (_row(names, row, position) for position, row in enumerate(fetched, start=len(rows) + 1))
    return rows


def _row(names: list[str], row: Any, position: int) -> dict[str, Any]:
    values = [row[name] for name in names] if isinstance(row, Mapping) else row
    result = {}
    for name, value in zip(names, values, strict=True):
        try:
            result[name] = _json_value(value)
        except UnicodeDecodeError:
            raise SplashifyConfigurationError(
                f"Column {redact(name)} of row {position:,} is binary data, not UTF-8 text.\n"
                "Leave it out of the query, or make text of it there."
            ) from None
    return result


def _json_value(value: Any) -> Any:
    """Return what XCom keeps of a value on every version of Airflow."""
    if value is None or isinstance(value, (bool, str)):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, Enum):
        return _json_value(value.value)
    if isinstance(value, Mapping):
        return {safe_str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_json_value(item) for item in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode()
    return _json_scalar(value)


def _json_scalar(value: object) -> str | float | None:
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return _interval(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else None  # a phone number has no exponent
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    return str(value)


def _interval(value: timedelta) -> str:
    """Return an interval as hours, minutes and seconds: in MySQL a time of day is one since midnight."""
    seconds, fraction = divmod(abs(value) // timedelta(microseconds=1), 10**6)
    text = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}" + (f".{fraction:06}" if fraction else "")
    return f"-{text}" if value < timedelta(0) else text


@dataclass(frozen=True)
class SqlWriteBack:
    """Write new agents back into a table, each only where the former holder still is.

    One transaction: all are written, or none, and clearing the task writes all of them again. What an earlier try has
    written, or somebody else has changed meanwhile, stays as it is. A released conversation's agent becomes NULL.

    :param conn_id: The Airflow connection of any database with an Airflow SQL hook.
    :param table: The table, with its schema where it needs one; names of ASCII letters, digits and underscores.
    :param phone_column: The column with the customer's number, as text or whole number.
    :param agent_column: The column with the agent's e-mail address; NULL or blank: nobody. Capital and small letters
        are the same.
    :param where: What else must be true of a row, as in ``"status = 'open'"``. It becomes part of the statement as it
        is, so it must be the DAG author's own SQL, never text from outside.
    :raises SplashifyConfigurationError: If a name is none.
    """

    conn_id: str
    table: str = "conversations"
    phone_column: str = "user_phone_number"
    agent_column: str = "agent_email"
    where: str | None = None

    def __post_init__(self) -> None:
        for field, pattern in (("table", _TABLE), ("phone_column", _COLUMN), ("agent_column", _COLUMN)):
            name = getattr(self, field)
            if not isinstance(name, str) or not pattern.fullmatch(name):
                raise SplashifyConfigurationError(
                    f"{field} is {redact(repr(name))}, not a plain name.\nUse ASCII letters, digits and underscores, "
                    "the first no digit; only a table may have its schema and a dot before it."
                )

    @without_frames(Exception)  # a driver's errors and their frames hold whole phone numbers
    def __call__(self, moves: Iterable[Mapping[str, Any]]) -> int:
        """Write the moves, and log how many.

        :param moves: Mappings with ``user_phone_number`` (as it stands in the table), ``from_agent`` (None: nobody had
            the conversation) and ``agent_email`` (None: it was released).
        :return: How many stand in the table now, those that an earlier try has written among them.
        :raises SplashifyConfigurationError: If a move lacks one of these, no row was found for any of them, or the
            connection isn't one of a database.
        :raises AirflowException: If the database fails, which Airflow retries; what was written is taken back.
        """
        values = [_values(move, position) for position, move in enumerate(moves, start=1)]
        hook = self._hook()
        statements = self._statements(hook.placeholder)
        results: Counter[str] = Counter()
        failure = "can't be reached"
        try:
            with _transaction(hook) as cursor:
                for position, (phone, holder, agent) in enumerate(values, start=1):
                    failure = f"failed at move {position:,} of {len(values):,}, {mask_phone_number(phone)}"
                    results[_write(cursor, statements, phone, holder, agent)] += 1
                failure = "did not confirm that the moves are written"
        except Exception as error:
            what = f"The database of {self.conn_id!r} (table {self.table}) {failure}"
            remedy = (
                "A retry, or clearing this task, writes all moves; if that fails, too, correct table, phone_column, "
                "agent_column, where or the connection first."
            )
            raise retry_later(f"{what} ({_said_by(error)}).", remedy) from None
        if results[_MISSING] == len(values) > 0:
            where = f" where {redact(self.where)}" if self.where else ""
            raise SplashifyConfigurationError(
                f"None of {plural(len(values), 'number')} is in table {self.table}{where}: nothing was written.\n"
                "Check table, phone_column and where of the write-back. If all were closed meanwhile, mark this task "
                "as success."
            )
        _log(len(values), results)
        return results[_WRITTEN] + results[_WRITTEN_BEFORE]

    def check(self) -> None:
        """Read a row that isn't there, to find out before anything is moved whether the table can be read.

        :raises AirflowException: If it can't.
        """
        hook = self._hook()
        try:
            with _transaction(hook) as cursor:
                cursor.execute(self._statements(hook.placeholder)[0], ("0",))
                cursor.fetchall()
        except Exception as error:
            what = f"The table that moves are written back to can't be read (connection {self.conn_id!r}, {self.table})"
            remedy = "Correct table, phone_column, agent_column or where."
            raise retry_later(f"{what} ({_said_by(error)}).", remedy) from None

    def _hook(self) -> Any:
        from airflow.providers.common.compat.sdk import BaseHook  # not earlier: DAGs load this module

        hook: Any = BaseHook.get_hook(self.conn_id)
        if not hasattr(hook, "get_conn") or getattr(hook, "placeholder", None) not in _PLACEHOLDERS:
            raise SplashifyConfigurationError(
                f"Connection {self.conn_id!r} can't be written to: {type(hook).__name__} is no SQL hook with the "
                "placeholder %s or ?.\nUse the connection of a database, or write the moves back with a function of "
                "your own."
            )
        return hook

    def _statements(self, placeholder: str) -> tuple[str, str, str]:
        """Return what reads a number's holder, and what writes a new agent over a holder's text, and over NULL."""
        row = f"{self.phone_column} = {placeholder}"
        if self.where:
            where = self.where.replace("%", "%%") if placeholder == "%s" else self.where
            row += f" AND ({where})"
        # All names are checked, and all values bound.
        select = f"SELECT {self.agent_column} FROM {self.table} WHERE {row}"  # noqa: S608
        update = f"UPDATE {self.table} SET {self.agent_column} = {placeholder} WHERE {row} AND {self.agent_column}"  # noqa: S608
        return select, f"{update} = {placeholder}", f"{update} IS NULL"


def _write(cursor: Any, statements: tuple[str, str, str], phone: str, holder: str, agent: str) -> str:
    """Write one move where the former holder still is. Return what has become of it.

    The holder is compared here, as planning reads it (without blanks around, in any spelling), and then written over
    exactly as it stands there, so that nobody's change in between is lost.
    """
    select, over_text, over_null = statements
    cursor.execute(select, (phone,))
    found = {next(iter(row.values())) if isinstance(row, Mapping) else row[0] for row in cursor.fetchall()}
    written = 0
    for raw in found:
        if _is_same(raw, holder):
            row = (phone,) if raw is None else (phone, raw)
            cursor.execute(over_null if raw is None else over_text, (agent or None, *row))
            written += cursor.rowcount != 0  # some drivers don't tell how many: -1 or None
    if written:
        return _WRITTEN
    if not found:
        return _MISSING
    return _WRITTEN_BEFORE if any(_is_same(raw, agent) for raw in found) else "changed by somebody else meanwhile"


def _is_same(raw: object, agent: str) -> bool:
    return ("" if raw is None else safe_str(raw).strip()).casefold() == agent.casefold()


@contextmanager
def _transaction(hook: Any) -> Iterator[Any]:
    """Give a cursor whose work is committed as one, or not at all."""
    with closing(hook.get_conn()) as connection:
        try:
            if getattr(hook, "supports_autocommit", False):
                hook.set_autocommit(connection, False)
            with closing(connection.cursor()) as cursor:
                yield cursor
            connection.commit()
        except BaseException:  # Airflow's time-outs and stops are no Exceptions
            with suppress(Exception):
                connection.rollback()  # some drivers commit when they close
            raise


def _values(move: Mapping[str, Any], position: int) -> tuple[str, str, str]:
    """Return number, former holder and new agent, as text: a column of numbers is compared with that, too."""
    lacking = [name for name in _MOVE if name not in move] if isinstance(move, Mapping) else _MOVE
    if lacking:  # least of all the agent: without one, it would be a release
        raise SplashifyConfigurationError(
            f"Move {position:,} has no {' and no '.join(lacking)}. Nothing was written.\nGive each of them, None where "
            "there is no agent."
        )
    phone, holder, agent = ("" if move[name] is None else safe_str(move[name]) for name in _MOVE)
    return phone, holder.strip(), agent.strip()


def _log(total: int, results: Counter[str]) -> None:
    rest = ", ".join(
        f"{count:,} {'was' if count == 1 else 'were'} {result}"
        for result, count in sorted(results.items(), reverse=True)
        if result != _WRITTEN
    )
    written = f"Wrote {results[_WRITTEN]:,} of {plural(total, 'new agent')} back"
    log.info("%s.", "; ".join(filter(None, [written, rest])))


def _said_by(error: Exception) -> str:
    """Name a database's error, without what it adds on further lines: whole rows."""
    return f"{type(error).__name__}: {redact(safe_str(error).strip().partition(chr(10))[0])}"
