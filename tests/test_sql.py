from __future__ import annotations

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
from airflow.providers.common.compat.sdk import AirflowException, AirflowNotFoundException, BaseHook
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

from splashify_provider import sql
from splashify_provider.exceptions import SplashifyConfigurationError
from splashify_provider.sql import SqlWriteBack, fetch_rows_handler
from tests.conftest import ADA, BEN, DAN, number, shown_in_frames
from tests.test_provider_info import modules_after

SCHEMA = """CREATE TABLE conversations (
    user_phone_number {phone} PRIMARY KEY, agent_email TEXT CHECK (agent_email <> 'gita@example.com'), status TEXT
)"""


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


def options_of(postgres):
    return {"host": postgres["host"], "port": postgres["port"], "user": "postgres", "dbname": "postgres"}


def connect_to(monkeypatch, **fields):
    monkeypatch.setenv("AIRFLOW_CONN_SUPPORT_DB", json.dumps(fields))


@pytest.fixture
def sqlite_db(tmp_path, monkeypatch):
    """An SQLite database, as a function that runs a statement there."""
    path = tmp_path / "support.db"
    connect_to(monkeypatch, conn_type="sqlite", host=str(path))

    def run(statement, *rows):
        with closing(sqlite3.connect(path)) as connection, connection:
            done = connection.executemany(statement, rows) if rows else connection.execute(statement)
            return done.fetchall()

    run(SCHEMA.format(phone="TEXT"))
    return run


@pytest.fixture
def postgres_db(postgres, monkeypatch):
    """The same in PostgreSQL, with numbers as numbers."""
    import psycopg2

    connect_to(monkeypatch, **postgres)

    def run(statement, *rows):
        with closing(psycopg2.connect(**options_of(postgres))) as connection, connection, connection.cursor() as cursor:
            if rows:
                return cursor.executemany(statement.replace("?", "%s"), rows)
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else None

    run(SCHEMA.format(phone="BIGINT"))
    return run


@pytest.fixture(params=["sqlite_db", "postgres_db"])
def any_db(request):
    return request.getfixturevalue(request.param)


INSERT = "INSERT INTO conversations VALUES (?, ?, ?)"
HELD = "SELECT CAST(user_phone_number AS TEXT), agent_email FROM conversations ORDER BY 1"


def move(index, from_agent, agent_email, phone=number):
    return {"user_phone_number": phone(index), "from_agent": from_agent, "agent_email": agent_email}


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


def test_each_move_is_written_where_its_former_holder_still_is(any_db, log):
    any_db(
        INSERT,
        (number(1), "ADA@example.com ", "open"),  # in another spelling
        (number(2), None, "open"),
        (number(3), "", "open"),
        (number(4), ADA, "open"),  # to be released
        (number(5), DAN, "open"),  # changed meanwhile
        (number(6), BEN, "open"),  # written by an earlier try
        (number(7), ADA, "closed"),
        (number(8), ADA, "open"),  # in no move
    )
    moves = [move(1, ADA, BEN), move(2, None, BEN), move(3, None, BEN), move(4, ADA, None)]
    moves += (move(index, ADA, BEN) for index in (5, 6, 7))
    write_back = SqlWriteBack("support_db", where="status = 'open'")
    assert write_back(iter(moves)) == 5
    expected = [(number(1), BEN), (number(2), BEN), (number(3), BEN), (number(4), None)]
    expected += [(number(5), DAN), (number(6), BEN), (number(7), ADA), (number(8), ADA)]
    assert any_db(HELD) == expected
    assert "Wrote 4 of 7 new agents back; 1 was written before, 1 was not in the table, 1 was changed" in log.text
    assert write_back(moves) == 5
    assert any_db(HELD) == expected
    assert "Wrote 0 of 7 new agents back; 5 were written before, 1 was not in the table" in log.text
    assert number(1) not in log.text


def test_numbers_as_text_and_as_numbers_are_the_same_in_any_column(any_db):
    for column in ("BIGINT", "NUMERIC", "TEXT", "VARCHAR(20)"):
        for kind in (int, str):
            any_db("DROP TABLE conversations")
            any_db(SCHEMA.format(phone=column))
            any_db(INSERT, (number(1), ADA, "open"))
            assert SqlWriteBack("support_db")([move(1, ADA, BEN, phone=lambda index: kind(number(index)))]) == 1  # noqa: B023


def test_where_no_number_is_found_at_all_it_says_what_may_be_wrong(any_db):
    any_db(INSERT, (number(1), ADA, "open"), (number(2), ADA, "open"))
    write_back = SqlWriteBack("support_db", where="status = 'OPEN'")
    with pytest.raises(SplashifyConfigurationError, match="None of 2 numbers is in table conversations where status"):
        write_back([move(1, ADA, BEN), move(2, ADA, BEN)])
    assert write_back([]) == 0


def test_a_table_that_cant_be_read_is_found_out_beforehand(any_db):
    SqlWriteBack("support_db", where="status = 'open'").check()
    for wrong in ({"table": "inbox"}, {"agent_column": "owner"}, {"phone_column": "phone"}, {"where": "state = 1"}):
        with pytest.raises(
            AirflowException, match=r"can't be read .*\nCorrect table, phone_column, agent_column or where"
        ):
            SqlWriteBack("support_db", **wrong).check()


def test_thousands_are_written_at_once(any_db, log):
    any_db(INSERT, *((number(index), ADA, "open") for index in range(5000)))
    assert SqlWriteBack("support_db")([move(index, ADA, BEN) for index in range(5000)]) == 5000
    assert {agent for _, agent in any_db(HELD)} == {BEN}
    assert "Wrote 5,000 of 5,000 new agents back." in log.text


def test_a_schema_a_percent_sign_and_rows_as_dicts_work_on_postgresql(postgres, postgres_db, monkeypatch, log):
    connect_to(monkeypatch, **postgres, extra={"cursor": "dictcursor"})
    postgres_db(INSERT, (number(1), ADA, "open"), (number(2), BEN, "open"))
    write_back = SqlWriteBack("support_db", table="public.conversations", where="status LIKE 'o%'")
    assert write_back([move(1, ADA, BEN), move(2, ADA, BEN)]) == 2
    assert "Wrote 1 of 2 new agents back; 1 was written before." in log.text


def test_other_names_and_a_percent_sign_are_taken_as_they_are(sqlite_db):
    sqlite_db("CREATE TABLE chats (wa_id TEXT, holder TEXT, topic TEXT)")
    sqlite_db("INSERT INTO chats VALUES (?, ?, ?)", (number(1), ADA, "100% off?"))
    write_back = SqlWriteBack("support_db", "main.chats", "wa_id", "holder", where="topic = '100% off?' OR 1 = 0")
    assert write_back([move(1, ADA, BEN)]) == 1
    assert sqlite_db("SELECT holder FROM chats") == [(BEN,)]


NO_NAMES = {
    "table": ("conversations; DROP TABLE roster", '"conversations"', "a..b", "a.b.c.d", "conversations\n", None),
    "phone_column": ("c.user_phone_number", "1st"),
    "agent_column": ("", "agènt"),
}


@pytest.mark.parametrize(("field", "name"), [(field, name) for field, names in NO_NAMES.items() for name in names])
def test_what_is_no_plain_name_is_refused_when_the_dag_is_parsed(field, name):
    with pytest.raises(SplashifyConfigurationError, match=f"^{field} is .*, not a plain name.\nUse ASCII letters"):
        SqlWriteBack("support_db", **{field: name})


@pytest.mark.parametrize("bad", [{"user_phone_number": number(2), "from_agent": ADA}, "x", None])
def test_a_move_that_lacks_something_stops_all_before_anything_is_written(sqlite_db, bad):
    sqlite_db(INSERT, (number(1), ADA, "open"), (number(2), ADA, "open"))
    lacks = "^Move 2 has no .*agent_email. Nothing was written.\n"
    with pytest.raises(SplashifyConfigurationError, match=lacks) as raised:
        SqlWriteBack("support_db")([move(1, ADA, BEN), bad])
    assert shown_in_frames(raised.value, number(1), number(2)) == []
    assert {agent for _, agent in sqlite_db(HELD)} == {ADA}


def test_an_error_of_the_database_takes_everything_back_and_shows_no_number(any_db, log):
    any_db(INSERT, *((number(index), ADA, "open") for index in range(4)))
    with pytest.raises(AirflowException) as raised:
        SqlWriteBack("support_db")([move(1, ADA, BEN), move(2, ADA, "gita@example.com"), move(3, ADA, BEN)])
    what, remedy = str(raised.value).splitlines()
    place = "The database of 'support_db' (table conversations) failed at move 2 of 3, …0002 ("
    assert what.startswith((f"{place}CheckViolation: ", f"{place}IntegrityError: "))
    assert remedy.startswith("A retry, or clearing this task, writes all moves")
    assert "Failing row" not in what
    assert number(2) not in log.text
    assert shown_in_frames(raised.value, number(1), number(2)) == []
    assert {agent for _, agent in any_db(HELD)} == {ADA}


def test_a_number_that_the_database_repeats_is_masked(postgres_db):
    with pytest.raises(AirflowException, match=r"move 1 of 1, …0001 .*invalid input syntax.*…0001") as raised:
        SqlWriteBack("support_db")([move(1, BEN, ADA, phone=lambda index: f"no {number(index)}")])
    assert number(1) not in str(raised.value)


def test_a_table_that_is_not_there_is_named(sqlite_db):
    with pytest.raises(AirflowException, match=r"\(table chats\) failed at move 1 of 1.*no such table: chats"):
        SqlWriteBack("support_db", "chats")([move(1, ADA, BEN)])


def test_a_database_that_is_not_there_is_named(monkeypatch):
    connect_to(monkeypatch, conn_type="postgres", host="127.0.0.1", port=1, login="x", password="hush", schema="x")
    with pytest.raises(AirflowException, match="^The database of 'support_db' .*can't be reached") as raised:
        SqlWriteBack("support_db")([move(1, ADA, BEN)])
    assert shown_in_frames(raised.value, number(1), "hush") == []


def test_a_missing_connection_is_airflows_own_error_without_the_moves():
    with pytest.raises(AirflowNotFoundException) as raised:
        SqlWriteBack("nowhere")([move(1, ADA, BEN)])
    assert shown_in_frames(raised.value, number(1)) == []


def test_a_connection_of_another_kind_is_refused(monkeypatch):
    connect_to(monkeypatch, conn_type="http", host="127.0.0.1")
    with pytest.raises(SplashifyConfigurationError, match="'support_db' can't be written to: HttpHook is no SQL hook"):
        SqlWriteBack("support_db")([move(1, ADA, BEN)])


class Hook:
    """A hook whose driver says so many rows were changed, and fails (or is stopped) when it is to commit."""

    placeholder, supports_autocommit = "%s", True

    def __init__(self, rowcount=1, held=(), stop=None):
        self.rowcount, self.calls, self._stop = rowcount, [], stop
        self.get_conn = self.cursor = lambda: self
        self.fetchall = lambda: held
        self.close = lambda: self.calls.append("close")
        self.set_autocommit = lambda connection, autocommit: self.calls.append(f"autocommit {autocommit}")

    def execute(self, statement, parameters):
        assert statement.count("%s") == len(parameters)

    def commit(self):
        self.calls.append("commit")
        if self._stop:
            raise self._stop

    def rollback(self):
        self.calls.append("rollback")
        raise OSError("the connection is lost")


def use(monkeypatch, hook):
    monkeypatch.setattr(BaseHook, "get_hook", lambda conn_id: hook)
    return SqlWriteBack("support_db")


@pytest.mark.parametrize("rowcount", [-1, None])
def test_where_a_driver_counts_no_rows_what_was_to_be_written_is_taken_for_written(monkeypatch, rowcount):
    hook = Hook(rowcount, held=[(ADA,)])
    assert use(monkeypatch, hook)([move(1, ADA, BEN)]) == 1
    assert hook.calls == ["autocommit False", "close", "commit", "close"]
    assert use(monkeypatch, Hook(rowcount, held=[(DAN,)]))([move(1, ADA, BEN)]) == 0
    assert use(monkeypatch, Hook(0, held=[(ADA,)]))([move(1, ADA, BEN)]) == 0  # somebody was quicker


@pytest.mark.parametrize(
    "raw", ["ada@example.com\n", "\tADA@example.com", "ada@example.com\xa0", " ada@example.com\r\n"]
)
def test_a_holder_is_compared_as_planning_reads_it(any_db, raw):
    any_db(INSERT, (number(1), raw, "open"), (number(2), "\t", "open"))
    assert SqlWriteBack("support_db")([move(1, ADA, BEN), move(2, None, BEN)]) == 2
    assert any_db(HELD) == [(number(1), BEN), (number(2), BEN)]


def test_a_commit_that_fails_is_rolled_back_and_says_so(monkeypatch):
    hook = Hook(stop=OSError("no answer"))
    with pytest.raises(AirflowException, match=r"did not confirm that the moves are written \(OSError: no answer\)"):
        use(monkeypatch, hook)([move(1, ADA, BEN)])
    assert hook.calls[-2:] == ["rollback", "close"]


def test_a_task_that_is_stopped_is_rolled_back(monkeypatch):
    hook = Hook(stop=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as raised:
        use(monkeypatch, hook)([move(1, ADA, BEN)])
    assert hook.calls[-2:] == ["rollback", "close"]
    assert shown_in_frames(raised.value, number(1)) == []


def test_parsing_a_dag_loads_neither_airflow_nor_a_driver():
    added = {name.split(".")[0] for name in modules_after("import splashify_provider.sql")}
    assert "splashify_provider" in added
    assert not added & {"airflow", "psycopg2", "psycopg", "sqlalchemy"}
