from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException

from splashify_provider.operators.splashify import SplashifyAssignOperator
from tests.conftest import ADA, BEN

DAG_ID = "splashify_shift_handover"


class TestWriteBack:
    MOVES = (("+1 202 555 0101", ADA, "gone"), ("+1 202 555 0102", BEN, None), ("+1 202 555 0103", ADA, "gone"))

    @pytest.fixture
    def write_back(self, load_dag, tmp_path, monkeypatch, connect, sandbox):
        """Call the task with what assign returned, on a table as it has become since it was read."""
        path = tmp_path / "support.db"
        monkeypatch.setenv("AIRFLOW_CONN_SUPPORT_DB", json.dumps({"conn_type": "sqlite", "host": str(path)}))
        connect(sandbox.base_url)
        task = load_dag(DAG_ID)[1].get_task("write_back")

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
            written = task.python_callable(pulled, moves, ti=ti, data_interval_end=datetime.now(timezone.utc) - age)
            with closing(sqlite3.connect(path)) as connection:
                rows = connection.execute("SELECT agent_email FROM conversations ORDER BY rowid")
                return [row[0] for row in rows], written

        return call

    @pytest.fixture
    def results(self, connect, sandbox):
        """What the operator returned for each of the moves."""
        connect(sandbox.base_url)
        return [
            SplashifyAssignOperator(task_id="assign", user_phone_number=phone, agent_email=agent).execute({})
            for phone, agent, _ in self.MOVES
        ]

    def test_what_was_assigned_is_written_and_the_rest_is_not(self, write_back, results):
        assert write_back(results[:2]) == ([ADA, BEN, "gone"], 2)

    def test_a_dry_run_is_not_written(self, write_back, results):
        assert write_back([{**results[0], "outcome": "dry_run"}, results[2]]) == (["gone", None, ADA], 1)

    def test_what_somebody_has_changed_since_is_kept_and_not_counted(self, write_back, results):
        since = {"c1": ("zoe", "open"), "c2": (None, "closed"), "c3": (ADA, "open")}
        assert write_back(results, **since) == (["zoe", None, ADA], 0)

    def test_it_skips_for_an_old_run_but_not_while_assign_might_have_acted(self, write_back, results):
        with pytest.raises(AirflowSkipException):
            write_back(results, age=timedelta(hours=17))

    def test_it_acts_for_a_run_that_was_just_in_time(self, write_back, results):
        assert write_back(results[:1], age=timedelta(hours=9)) == ([ADA, None, "gone"], 1)

    def test_it_writes_nothing_where_nothing_was_planned(self, load_dag, write_back):
        assert write_back(None) == (["gone", None, "gone"], 0)
        load_dag(DAG_ID)[1].get_task("write_back").python_callable(
            None,
            None,
            ti=SimpleNamespace(xcom_pull=lambda task_ids: None),
            data_interval_end=datetime.now(timezone.utc),
        )


def test_the_dag_is_what_its_docstring_says(load_dag):
    _, dag = load_dag(DAG_ID)
    assert dag.catchup is False
    assert dag.max_active_runs == 1
    assert str(dag.timezone) == "Europe/Berlin"
    assign = dag.get_task("assign")
    assert assign.partial_kwargs["max_run_age"] == timedelta(hours=8)
    assert assign.partial_kwargs["retries"] == 5
    assert assign.partial_kwargs["retry_exponential_backoff"]
    assert "pool" in dag.doc_md
    assert [task.task_id for task in dag.leaves] == ["handed_over"]


@pytest.mark.slow
def test_the_same_run_again_and_a_repaired_run_end_in_the_same_state(airflow_run):
    sandbox, team = airflow_run.sandbox, airflow_run.team

    before, _ = airflow_run.state()
    code, log = airflow_run(DAG_ID)
    assert code == 1, log  # an agent on the roster is disabled
    assert f"Agent inactive: {team.disabled} is disabled in Splashify" in log
    assert "no open conversation" in log
    failed_state = airflow_run.state()
    moved = {phone for phone, holder in failed_state[0].items() if before[phone] != holder}
    closed = {chat.user_phone_number for chat in sandbox.workspace.conversations.values() if not chat.open}
    assert moved
    for phone, holder in failed_state[0].items():  # written back: what was assigned, and only that
        assert failed_state[1][phone] == (holder if phone in moved else before[phone])

    sandbox.workspace.agents[team.disabled].active = True
    sandbox.workspace.answers.clear()
    code, log = airflow_run(DAG_ID)
    assert code == 0, log
    repaired = airflow_run.state()
    assert repaired[0] == repaired[1]
    for phone, holder in repaired[0].items():
        if phone in moved:
            assert holder == failed_state[0][phone]
        elif phone not in closed and holder != before[phone]:
            assert holder == team.disabled

    sandbox.workspace.answers.clear()
    code, log = airflow_run(DAG_ID)
    assert code == 0, log
    assert airflow_run.state() == repaired
    assert sandbox.workspace.answers[200] == 0  # nothing was left to send


@pytest.mark.slow
def test_an_old_run_moves_nothing(airflow_run):
    before = airflow_run.in_table()
    # On duty then were others; moving to them now would be wrong.
    code, log = airflow_run(DAG_ID, airflow_run.now - timedelta(hours=25))
    assert code == 0, log
    assert "max_run_age is 8 h" in log
    assert airflow_run.sandbox.workspace.answers == {}
    assert airflow_run.in_table() == before


@pytest.mark.slow
def test_the_same_file_runs_on_postgresql(airflow_on_postgres):
    run = airflow_on_postgres
    for agent in run.sandbox.workspace.agents.values():
        agent.active = True
    before = run.in_splashify()
    code, log = run(DAG_ID)
    assert code == 0, log
    after = run.in_splashify()
    moved = {phone for phone, agent in after.items() if agent != before[phone]}
    assert len(moved) == run.sandbox.workspace.answers[200] == 20
    assert run.in_table() == after
