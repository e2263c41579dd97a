"""Rows by column name, as cursors of every kind give them."""

import json
import sqlite3
import uuid
from collections import namedtuple
from contextlib import closing
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from types import SimpleNamespace

import pytest
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

from splashify_provider import sql
from splashify_provider.exceptions import SplashifyConfigurationError
from splashify_provider.sql import fetch_rows_handler
from tests.conftest import ADA, number, shown_in_frames
from tests.databases import INSERT, options_of
from tests.test_provider_info import modules_after


class Cursor:
    """A cursor of a driver that gives its rows in such a shape."""

    def __init__(self, names, *rows):
        self.description = [(name, None, None, None, None, None, None) for name in names]
        self._rows = list(rows)

    def fetchmany(self, size):
        fetched, self._rows = self._rows[:size], self._rows[size:]
        return fetched


def value(given):
    (row,) = fetch_rows_handler(Cursor(["x"], (given,)))
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    return row["x"]


class Status(Enum):
    OPEN = "open"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        (12025550101, 12025550101),
        ("ada@example.com", "ada@example.com"),
        (datetime(2026, 11, 22, 6, tzinfo=timezone(timedelta(hours=1))), "2026-11-22T06:00:00+01:00"),
        (datetime(2026, 11, 22, 6), "2026-11-22T06:00:00"),  # noqa: DTZ001 - refused by name where it is planned with
        (date(2026, 11, 22), "2026-11-22"),
        (time(22, 0), "22:00:00"),
        (timedelta(hours=22), "22:00:00"),
        (timedelta(days=1), "24:00:00"),
        (timedelta(minutes=-90, microseconds=-5), "-01:30:00.000005"),
        (Decimal("2.50"), "2.50"),
        (Decimal("1202555E+4"), "12025550000"),
        (Decimal("NaN"), None),
        (0.5, 0.5),
        (float("nan"), None),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ("grün".encode(), "grün"),
        (Status.OPEN, "open"),
        (Status, str(Status)),
        ([Decimal(1), ("en", True)], ["1", ["en", True]]),
        ({"since": memoryview(b"ada"), 1: [float("-inf")]}, {"since": "ada", "1": [None]}),
    ],
)
def test_a_value_is_what_json_can_say(given, expected):
    assert value(given) == expected
    assert type(value(given)) is type(expected)


ROWS = ((1, 2), [1, 2], namedtuple("Row", "a b")(1, 2), {"a": 1, "b": 2})


@pytest.mark.parametrize("row", ROWS)
def test_rows_may_have_any_shape(row):
    assert fetch_rows_handler(Cursor(["a", "b"], row, row)) == [{"a": 1, "b": 2}] * 2


def test_a_statement_without_a_result_gives_none_and_one_without_rows_an_empty_list():
    assert fetch_rows_handler(SimpleNamespace(description=None)) is None
    assert fetch_rows_handler(Cursor(["a"])) == []


def test_two_columns_of_one_name_are_refused():
    with pytest.raises(SplashifyConfigurationError, match="more than one column agent_email: which one.*\nSelect each"):
        fetch_rows_handler(Cursor(["agent_email", "x", "AGENT_EMAIL"]))


def test_binary_data_is_refused_by_column_and_row_without_showing_the_others():
    with pytest.raises(SplashifyConfigurationError, match=r"^Column photo of row 2 is binary data.*\nLeave") as raised:
        fetch_rows_handler(Cursor(["phone", "photo"], (number(1), b"x"), (number(2), b"\xff")))
    assert shown_in_frames(raised.value, number(1), number(2), "\\xff") == []


def test_rows_beyond_the_bound_are_refused(monkeypatch):
    monkeypatch.setattr(sql, "MOST_ROWS", 25_000)
    numbered = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT {}) SELECT x FROM n"
    with closing(sqlite3.connect(":memory:")) as connection:
        rows = fetch_rows_handler(connection.execute(numbered.format(25_000)))
        assert rows == [{"x": x} for x in range(1, 25_001)]
        with pytest.raises(SplashifyConfigurationError, match="more than 25,000 rows.\nSelect only"):
            fetch_rows_handler(connection.execute(numbered.format(25_001)))


def query(statement, **options):
    options |= {"conn_id": "support_db", "handler": fetch_rows_handler, "show_return_value_in_logs": False}
    return SQLExecuteQueryOperator(task_id="pull", sql=statement, **options).execute({})


def test_the_operator_gives_rows_on_sqlite(sqlite_db):
    sqlite_db(INSERT, (number(1), ADA, "open"), (number(2), None, "open"))
    rows = query("SELECT user_phone_number AS phone, agent_email FROM conversations")
    assert rows == [{"phone": number(1), "agent_email": ADA}, {"phone": number(2), "agent_email": None}]
    both = query(["SELECT 1 AS a", "DELETE FROM conversations", "SELECT 2 AS b, 'x' AS c"])
    assert both == [[{"a": 1}], None, [{"b": 2, "c": "x"}]]
    assert query("SELECT 1 AS a; SELECT 2 AS b", split_statements=True) == [{"b": 2}]
    assert query("SELECT 1 AS a; SELECT 2 AS b", split_statements=True, return_last=False) == [[{"a": 1}], [{"b": 2}]]


def test_rows_of_sqlite_with_names_work():
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.row_factory = sqlite3.Row
        assert fetch_rows_handler(connection.execute("SELECT 1 AS a, 2 AS b")) == [{"a": 1, "b": 2}]


TYPES = """SELECT TIMESTAMP '2026-11-22 05:00' AS naive, TIMESTAMPTZ '2026-11-22 06:00+01' AS moment,
    INTERVAL '22 hours' AS interval, 12025550101::numeric AS phone, 'NaN'::float AS nan, ARRAY['en', 'pt'] AS languages,
    '{"a": [1.5, null]}'::jsonb AS document, 'ada'::bytea AS bytes, 5::bigint AS big, TIME '22:00' AS clock"""


ROW = {
    "naive": "2026-11-22T05:00:00", "interval": "22:00:00", "phone": "12025550101", "nan": None,
    "languages": ["en", "pt"], "document": {"a": [1.5, None]}, "bytes": "ada", "big": 5, "clock": "22:00:00",
}  # fmt: skip


def test_the_operator_gives_rows_on_postgresql(postgres_db):
    (row,) = query(TYPES)
    assert datetime.fromisoformat(row.pop("moment")) == datetime(2026, 11, 22, 5, tzinfo=timezone.utc)
    assert row == ROW


def test_every_cursor_of_psycopg2_gives_rows(postgres):
    import psycopg2
    from psycopg2.extras import DictCursor, NamedTupleCursor, RealDictCursor

    with closing(psycopg2.connect(**options_of(postgres))) as connection:
        for factory in (None, DictCursor, RealDictCursor, NamedTupleCursor):
            cursor = connection.cursor(cursor_factory=factory)
            cursor.execute(TYPES)
            (row,) = fetch_rows_handler(cursor)
            assert row == {**ROW, "moment": row["moment"]}


def test_parsing_a_dag_loads_neither_airflow_nor_a_driver():
    added = {name.split(".")[0] for name in modules_after("import splashify_provider.sql")}
    assert "splashify_provider" in added
    assert not added & {"airflow", "psycopg2", "psycopg", "sqlalchemy"}
