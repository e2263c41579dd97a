from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from hypothesis import given, settings
from hypothesis import strategies as st

from splashify_provider.sandbox.server import Sandbox
from tests.conftest import airflow_cli

DAGS = Path(__file__).resolve().parents[2] / "dags"
DAG_ID = "splashify_shift_handover"
AT = datetime(2026, 11, 22, 13, 0, tzinfo=timezone.utc)


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def handover():
    return load(DAGS / f"{DAG_ID}.py")


@pytest.fixture(scope="module")
def seed():
    return load(DAGS / "demo" / "seed.py")


def shift(agent, start, end, day=22):
    """A shift in UTC, overnight where it ends before it starts."""
    starts_at = datetime(2026, 11, day, start, tzinfo=timezone.utc)
    ends_at = datetime(2026, 11, day, end, tzinfo=timezone.utc) + timedelta(days=end <= start)
    return {"agent_email": agent, "starts_at": starts_at.isoformat(), "ends_at": ends_at.isoformat()}


def chat(number, agent=None):
    return {"user_phone_number": f"+1 202 555 01{number:02d}", "agent_email": agent}


class TestPlan:
    def test_who_stays_on_duty_keeps_their_conversations(self, handover):
        roster = [shift("ada", 5, 13), shift("ben", 13, 21), shift("cleo", 12, 14)]
        moves = handover.plan_handover(roster, [chat(1, "ben"), chat(2, "cleo"), chat(3, "ada"), chat(4)], AT)
        assert [move["user_phone_number"] for move in moves] == ["+1 202 555 0103", "+1 202 555 0104"]
        assert {move["agent_email"] for move in moves} <= {"ben", "cleo"}

    def test_a_shift_includes_its_start_and_not_its_end(self, handover):
        roster = [shift("ada", 5, 13), shift("ben", 13, 21)]
        assert handover.plan_handover(roster, [chat(1)], AT)[0]["agent_email"] == "ben"
        assert handover.plan_handover(roster, [chat(1)], AT - timedelta(seconds=1))[0]["agent_email"] == "ada"

    def test_an_overnight_shift_is_on_duty_on_both_sides_of_midnight(self, handover):
        roster = [shift("ada", 21, 5)]
        for hour in (21, 23, 24, 28):
            at = datetime(2026, 11, 22, tzinfo=timezone.utc) + timedelta(hours=hour)
            assert handover.plan_handover(roster, [chat(1)], at)[0]["agent_email"] == "ada"
        with pytest.raises(AirflowFailException):
            handover.plan_handover(roster, [chat(1)], datetime(2026, 11, 23, 5, tzinfo=timezone.utc))

    def test_times_in_another_zone_mean_the_same_moment(self, handover):
        roster = [
            {"agent_email": "ada", "starts_at": "2026-11-22T14:00:00+01:00", "ends_at": "2026-11-22T22:00:00+01:00"}
        ]
        assert handover.plan_handover(roster, [chat(1)], AT)

    def test_nobody_on_duty_fails_and_says_so(self, handover):
        with pytest.raises(AirflowFailException, match="Nobody is on duty at 2026-11-22 13:00.*Add a shift"):
            handover.plan_handover([shift("ada", 5, 13)], [chat(1)], AT)

    @pytest.mark.parametrize("time", ["2026-11-22T05:00:00", "2026-11-22", "soon", ""])
    @pytest.mark.parametrize("field", ["starts_at", "ends_at"])
    def test_a_time_without_an_offset_is_not_guessed(self, handover, field, time):
        with pytest.raises(AirflowFailException, match="UTC offset.*Correct the roster"):
            handover.plan_handover([shift("ada", 5, 23), {**shift("ben", 5, 23), field: time}], [chat(1)], AT)

    @pytest.mark.parametrize("row", [{"agent_email": None}, {"starts_at": None}])
    def test_an_empty_field_of_a_shift_is_named(self, handover, row):
        with pytest.raises(AirflowFailException, match="needs an agent, and a start"):
            handover.plan_handover([shift("ada", 5, 23), {**shift("ben", 5, 23), **row}], [chat(1)], AT)

    def test_addresses_are_compared_without_their_case(self, handover):
        roster = [shift("Ada@example.com", 5, 23), shift(" ada@example.com ", 13, 21)]
        assert handover.plan_handover(roster, [chat(1, "ADA@example.com ")], AT) == []
        assert handover.plan_handover(roster, [chat(1)], AT)[0]["agent_email"].lower() == "ada@example.com"

    def test_one_customer_twice_is_not_guessed(self, handover):
        twice = [chat(1, "gone"), {"user_phone_number": "12025550101", "agent_email": "ada"}]
        with pytest.raises(AirflowFailException, match="…0101 has two open conversations") as raised:
            handover.plan_handover([shift("ada", 5, 23)], twice, AT)
        assert "555010" not in str(raised.value)

    def test_z_is_an_offset(self, handover):
        roster = [{"agent_email": "ada", "starts_at": "2026-11-22T13:00:00Z", "ends_at": "2026-11-22T21:00:00Z"}]
        assert handover.plan_handover(roster, [chat(1)], AT)

    @given(st.randoms(use_true_random=False), st.integers(1, 6), st.integers(0, 40))
    @settings(max_examples=50, deadline=None)
    def test_the_plan_depends_on_neither_order_nor_on_what_has_been_done_already(self, handover, random, agents, chats):
        roster = [shift(f"agent{number}@example.com", 13, 21) for number in range(agents)]
        conversations = [chat(number, random.choice([None, "gone@example.com"])) for number in range(chats)]
        plan = {
            move["user_phone_number"]: move["agent_email"] for move in handover.plan_handover(roster, conversations, AT)
        }
        assert len(plan) == chats

        done = [
            {**row, "agent_email": plan[row["user_phone_number"]]} if random.random() < 0.5 else row
            for row in conversations
        ]
        random.shuffle(done)
        random.shuffle(roster)
        rest = {move["user_phone_number"]: move["agent_email"] for move in handover.plan_handover(roster, done, AT)}
        assert rest.items() <= plan.items()
        assert len(rest) == sum(row["agent_email"] in (None, "gone@example.com") for row in done)

    def test_conversations_spread_over_those_on_duty(self, handover):
        roster = [shift(f"agent{number}", 13, 21) for number in range(4)]
        moves = handover.plan_handover(
            roster, [{"user_phone_number": str(n), "agent_email": None} for n in range(400)], AT
        )
        counts = [sum(move["agent_email"] == f"agent{number}" for move in moves) for number in range(4)]
        assert min(counts) > 70


class TestWriteBack:
    MOVES = (("+1 202 555 0101", "ada", "gone"), ("+1 202 555 0102", "ben", None), ("+1 202 555 0103", "ada", "gone"))

    @pytest.fixture
    def write_back(self, handover, tmp_path, monkeypatch):
        """Call the task with what assign returned, on a table as it has become since it was read."""
        path = tmp_path / "support.db"
        monkeypatch.setenv("AIRFLOW_CONN_SUPPORT_DB", json.dumps({"conn_type": "sqlite", "host": str(path)}))
        task = handover.splashify_shift_handover().get_task("write_back")

        def call(results, age=timedelta(0), **since):
            pulled = {
                "conversations": [{"user_phone_number": phone, "agent_email": old} for phone, _, old in self.MOVES]
            }
            moves = [{"user_phone_number": phone, "agent_email": agent} for phone, agent, _ in self.MOVES]
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute("CREATE TABLE conversations (user_phone_number, agent_email, status)")
                for phone, _, old in self.MOVES:
                    holder, status = since.get("c" + phone[-1], (old, "open"))
                    connection.execute("INSERT INTO conversations VALUES (?, ?, ?)", (phone, holder, status))
            ti = SimpleNamespace(xcom_pull=lambda task_ids: results)
            task.python_callable(pulled, moves, ti=ti, data_interval_end=datetime.now(timezone.utc) - age)
            with closing(sqlite3.connect(path)) as connection:
                return [row[0] for row in connection.execute("SELECT agent_email FROM conversations ORDER BY rowid")]

        return call

    def result(self, index, outcome="assigned"):
        phone, agent, _ = self.MOVES[index]
        return {"outcome": outcome, "user_phone_number": f"…{phone[-4:]}", "agent_email": agent, "message": ""}

    def test_what_was_assigned_is_written_and_the_rest_is_not(self, write_back):
        assert write_back([self.result(0), self.result(1)]) == ["ada", "ben", "gone"]

    def test_a_dry_run_is_not_written(self, write_back):
        assert write_back([self.result(0, "dry_run"), self.result(2)]) == ["gone", None, "ada"]

    def test_a_result_of_an_earlier_plan_is_not_written(self, write_back):
        earlier = [{**self.result(0), "agent_email": "zoe"}, {**self.result(1), "user_phone_number": "…0199"}]
        assert write_back([*earlier, None, self.result(2)]) == ["gone", None, "ada"]

    def test_moves_that_look_alike_are_written_only_if_all_succeeded(self, write_back, monkeypatch):
        alike = (("+1 202 555 0101", "ada", "gone"), ("+1 312 555 0101", "ada", "gone"))
        monkeypatch.setattr(TestWriteBack, "MOVES", alike)
        assert write_back([self.result(0)]) == ["gone", "gone"]

    def test_moves_that_look_alike_are_written_if_they_did(self, write_back, monkeypatch):
        alike = (("+1 202 555 0101", "ada", "gone"), ("+1 312 555 0101", "ada", "gone"))
        monkeypatch.setattr(TestWriteBack, "MOVES", alike)
        assert write_back([self.result(0), self.result(1)]) == ["ada", "ada"]

    def test_a_single_result_may_come_without_its_list(self, write_back):
        assert write_back(self.result(0)) == ["ada", None, "gone"]

    def test_what_somebody_has_changed_since_is_kept(self, write_back):
        everything = [self.result(index) for index in range(3)]
        since = {"c1": ("zoe", "open"), "c2": (None, "closed"), "c3": ("ada", "open")}
        assert write_back(everything, **since) == ["zoe", None, "ada"]

    def test_it_skips_for_an_old_run_but_not_while_assign_might_have_acted(self, write_back):
        with pytest.raises(AirflowSkipException):
            write_back([self.result(0)], age=timedelta(hours=17))

    def test_it_acts_for_a_run_that_was_just_in_time(self, write_back):
        assert write_back([self.result(0)], age=timedelta(hours=9)) == ["ada", None, "gone"]

    def test_it_writes_nothing_where_nothing_was_planned(self, handover, write_back):
        assert write_back(None) == ["gone", None, "gone"]
        handover.splashify_shift_handover().get_task("write_back").python_callable(
            None,
            None,
            ti=SimpleNamespace(xcom_pull=lambda task_ids: None),
            data_interval_end=datetime.now(timezone.utc),
        )


def test_the_demo_team_is_the_same_in_the_database_and_the_sandbox(seed, tmp_path):
    for hour in range(24):
        at = datetime(2026, 3, 29, hour, tzinfo=timezone.utc)  # the clocks change
        team = seed.make_team(at)
        in_table = {
            "".join(filter(str.isdigit, phone)): holder
            for phone, holder, status in team.conversations
            if status == "open"
        }
        in_sandbox = {chat["user_phone_number"]: chat["agent_email"] for chat in team.sandbox["conversations"]}
        assert in_table.items() <= in_sandbox.items()
        assert len(in_table) == 250
        on_duty = {
            agent
            for agent, start, end in team.roster
            if datetime.fromisoformat(start) <= at < datetime.fromisoformat(end)
        }
        assert on_duty == {seed.email(name) for name in seed.TEAMS[seed.shift_at(at)]}
        assert team.disabled in on_duty


def test_the_dag_is_what_its_docstring_says(handover):
    dag = handover.splashify_shift_handover()
    assert dag.catchup is False
    assert dag.max_active_runs == 1
    assert str(dag.timezone) == "Europe/Berlin"
    assign = dag.get_task("assign")
    assert assign.partial_kwargs["max_run_age"] == timedelta(hours=8)
    assert assign.partial_kwargs["retries"] == 5
    assert assign.partial_kwargs["retry_exponential_backoff"]
    assert "pool" in dag.doc_md
    assert [task.task_id for task in dag.leaves] == ["handed_over"]


@pytest.fixture
def team(seed):
    """The demo's team, with fewer conversations: two that stay and 25 that have to move."""
    made = seed.make_team(datetime.now(timezone.utc))
    few = [row for row in made.conversations if row[2] == "open"]
    return type(made)(made.roster, few[:2] + few[225:], made.sandbox, made.disabled)


class AirflowRun:
    """Runs the DAG through Airflow itself against the sandbox."""

    def __init__(self, team, sandbox, folder, database):
        self.team, self.sandbox, self.now = team, sandbox, datetime.now(timezone.utc)
        splashify = {"conn_type": "splashify", "password": "sk_live_sandbox", "host": sandbox.base_url}
        self._airflow = airflow_cli(folder / "airflow", DAGS, splashify_default=splashify, support_db=database)

    def __call__(self, at=None):
        result = self._airflow("dags", "test", DAG_ID, (at or self.now).isoformat())
        # Airflow 3.0 prints what tasks and supervisor say to each other, whatever the log level.
        lines = (result.stdout + result.stderr).splitlines()
        log = "\n".join(line for line in lines if "[debug" not in line)
        assert "sk_live_sandbox" not in log
        for phone, *_ in self.team.conversations:
            assert phone not in log
            assert digits(phone) not in log
        return result.returncode, log

    def in_splashify(self):
        held = {chat.user_phone_number: chat.agent_email for chat in self.sandbox.workspace.conversations.values()}
        return {digits(phone): held[digits(phone)] for phone, *_ in self.team.conversations}


def digits(phone):
    return "".join(filter(str.isdigit, phone))


@pytest.fixture
def airflow_run(seed, team, tmp_path):
    database = tmp_path / "support.db"
    seed.write_database(database, team)

    def in_table():
        with closing(sqlite3.connect(database)) as connection:
            rows = connection.execute("SELECT user_phone_number, agent_email FROM conversations").fetchall()
        return {digits(phone): agent for phone, agent in rows}

    with Sandbox(team.sandbox) as sandbox:
        run = AirflowRun(team, sandbox, tmp_path, {"conn_type": "sqlite", "host": str(database)})
        run.in_table = in_table
        yield run


@pytest.mark.slow
def test_the_same_run_again_and_a_repaired_run_end_in_the_same_state(airflow_run):
    sandbox, team = airflow_run.sandbox, airflow_run.team

    def state():
        return airflow_run.in_splashify(), airflow_run.in_table()

    before, _ = state()
    code, log = airflow_run()
    assert code == 1, log  # an agent on the roster is disabled
    assert f"Agent inactive: {team.disabled} is disabled in Splashify" in log
    assert "no open conversation" in log
    failed_state = state()
    moved = {phone for phone, holder in failed_state[0].items() if before[phone] != holder}
    closed = {chat.user_phone_number for chat in sandbox.workspace.conversations.values() if not chat.open}
    assert moved
    for phone, holder in failed_state[0].items():  # written back: what was assigned, and only that
        assert failed_state[1][phone] == (holder if phone in moved else before[phone])

    sandbox.workspace.agents[team.disabled].active = True
    sandbox.workspace.answers.clear()
    code, log = airflow_run()
    assert code == 0, log
    repaired = state()
    assert repaired[0] == repaired[1]
    for phone, holder in repaired[0].items():
        if phone in moved:
            assert holder == failed_state[0][phone]
        elif phone not in closed and holder != before[phone]:
            assert holder == team.disabled

    sandbox.workspace.answers.clear()
    code, log = airflow_run()
    assert code == 0, log
    assert state() == repaired
    assert sandbox.workspace.answers[200] == 0  # nothing was left to send


@pytest.mark.slow
def test_an_old_run_moves_nothing(airflow_run):
    before = airflow_run.in_table()
    # On duty then were others; moving to them now would be wrong.
    code, log = airflow_run(airflow_run.now - timedelta(hours=25))
    assert code == 0, log
    assert "max_run_age is 8 h" in log
    assert airflow_run.sandbox.workspace.answers == {}
    assert airflow_run.in_table() == before


@pytest.fixture
def postgres():
    """A PostgreSQL server of its own, which Debian's packages run as the user postgres only."""
    (*_, binaries) = [None, *sorted(Path("/usr/lib/postgresql").glob("*/bin"))]
    if (binaries is None or os.getuid() != 0) and not os.environ.get("CI"):
        pytest.skip("needs root and Debian's postgresql")
    folder = Path(tempfile.mkdtemp(prefix="splashify-pg-"))
    shutil.chown(folder, "postgres")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def server(program, *options):
        command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", str(binaries / program)]
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL, cwd=folder)

    server("initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "postgres")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    server("pg_ctl", "-D", f"{folder}/data", "-o", options, "-l", f"{folder}/log", "-w", "start")
    yield {"conn_type": "postgres", "host": "127.0.0.1", "port": port, "login": "postgres", "schema": "postgres"}
    server("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.mark.slow
def test_the_same_file_runs_on_postgresql(seed, team, postgres, tmp_path):
    import psycopg2

    schema = seed.SCHEMA.read_text()
    for column in ("starts_at", "ends_at"):
        schema = re.sub(rf"({column} +)TEXT", r"\1TIMESTAMPTZ", schema)
    options = {"host": postgres["host"], "port": postgres["port"], "user": "postgres", "dbname": "postgres"}
    with closing(psycopg2.connect(**options)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(schema)
        cursor.executemany("INSERT INTO roster VALUES (%s, %s, %s)", team.roster)
        cursor.executemany("INSERT INTO conversations VALUES (%s, %s, %s)", team.conversations)
    for agent in team.sandbox["agents"]:
        agent["active"] = True
    with Sandbox(team.sandbox) as sandbox:
        run = AirflowRun(team, sandbox, tmp_path, postgres)
        before = run.in_splashify()
        code, log = run()
        assert code == 0, log
        after = run.in_splashify()
        with closing(psycopg2.connect(**options)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT user_phone_number, agent_email FROM conversations")
            table = {digits(phone): agent for phone, agent in cursor.fetchall()}
    moved = {phone for phone, agent in after.items() if agent != before[phone]}
    assert len(moved) == sandbox.workspace.answers[200] == 20
    assert table == after
