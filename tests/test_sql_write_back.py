"""New agents written back to a table, on SQLite and PostgreSQL."""

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowNotFoundException, BaseHook

from splashify_provider.exceptions import SplashifyConfigurationError
from splashify_provider.sql import SqlWriteBack
from tests.conftest import ADA, BEN, DAN, number, shown_in_frames
from tests.databases import INSERT, SCHEMA, connect_to

HELD = "SELECT CAST(user_phone_number AS TEXT), agent_email FROM conversations ORDER BY 1"


def move(index, from_agent, agent_email, phone=number):
    return {"user_phone_number": phone(index), "from_agent": from_agent, "agent_email": agent_email}


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
