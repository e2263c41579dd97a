from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from hypothesis import given, settings
from hypothesis import strategies as st

from splashify_provider.sandbox.server import Sandbox

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

    def test_a_time_without_an_offset_is_not_guessed(self, handover):
        naive = {"agent_email": "ada", "starts_at": "2026-11-22T05:00:00", "ends_at": "2026-11-22T23:00:00"}
        with pytest.raises(AirflowFailException, match="UTC offset"):
            handover.plan_handover([naive], [chat(1)], AT)

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
    assert assign.partial_kwargs["retries"] == 3
    assert assign.partial_kwargs["retry_exponential_backoff"]
    assert "pool" in dag.doc_md
    assert [task.task_id for task in dag.leaves] == ["handed_over"]


@pytest.fixture
def airflow_run(seed, tmp_path):
    """Run the DAG through Airflow itself, on SQLite, against the sandbox, from the demo's team."""
    database, now = tmp_path / "support.db", datetime.now(timezone.utc)
    team = seed.make_team(now)
    # Ten conversations that have to move and two that stay are enough here.
    few = [row for row in team.conversations if row[2] == "open"]
    team = type(team)(team.roster, few[:2] + few[225:], team.sandbox, team.disabled)
    seed.write_database(database, team)
    with Sandbox(team.sandbox) as sandbox:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW__")},
            "AIRFLOW_HOME": str(tmp_path / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "AIRFLOW_CONN_SPLASHIFY_DEFAULT": json.dumps(
                {
                    "conn_type": "splashify",
                    "password": "sk_live_sandbox",
                    "host": sandbox.base_url,
                    "extra": {"max_attempts": 1},
                }
            ),
            "AIRFLOW_CONN_SUPPORT_DB": json.dumps({"conn_type": "sqlite", "host": str(database)}),
        }

        def airflow(*command):
            return subprocess.run(["airflow", *command], env=environment, capture_output=True, text=True, check=False)

        assert airflow("db", "migrate").returncode == 0

        def run(at=now):
            result = airflow("dags", "test", DAG_ID, at.isoformat())
            # Airflow 3.0 prints what tasks and supervisor say to each other, whatever the log level.
            lines = (result.stdout + result.stderr).splitlines()
            log = "\n".join(line for line in lines if "[debug" not in line)
            assert "sk_live_sandbox" not in log
            for phone in [phone for phone, *_ in team.conversations]:
                assert phone not in log
                assert "".join(filter(str.isdigit, phone)) not in log
            return result.returncode, log

        run.team, run.sandbox, run.now = team, sandbox, now
        run.table = lambda: rows(database)
        yield run


def rows(database):
    with closing(sqlite3.connect(database)) as connection:
        found = connection.execute("SELECT user_phone_number, agent_email FROM conversations").fetchall()
    return {"".join(filter(str.isdigit, phone)): agent for phone, agent in found}


@pytest.mark.slow
def test_the_same_run_again_and_a_repaired_run_end_in_the_same_state(airflow_run):
    sandbox, team = airflow_run.sandbox, airflow_run.team

    def state():
        held = {chat.user_phone_number: chat.agent_email for chat in sandbox.workspace.conversations.values()}
        table = airflow_run.table()
        return {phone: held[phone] for phone in table}, table

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
    before = airflow_run.table()
    # On duty then were others; moving to them now would be wrong.
    code, log = airflow_run(airflow_run.now - timedelta(hours=25))
    assert code == 0, log
    assert "max_run_age is 8 h" in log
    assert airflow_run.sandbox.workspace.answers == {}
    assert airflow_run.table() == before
