from __future__ import annotations

from datetime import timedelta

import pytest

DAG_ID = "splashify_shift_handover"


def test_the_dag_is_what_its_docstring_says(load_dag):
    _, dag = load_dag(DAG_ID)
    assert str(dag.timezone) == "Europe/Berlin"
    assert dag.get_task("handover.plan").max_run_age == timedelta(hours=8)
    assert dag.get_task("handover.assign").partial_kwargs["retries"] == 3
    assert [task.task_id for task in dag.leaves] == ["handover.summary"]


@pytest.mark.slow
def test_everybody_gets_an_answer_and_the_same_run_again_changes_nothing(airflow_run):
    sandbox, team = airflow_run.sandbox, airflow_run.team
    before, _ = airflow_run.state()
    code, log = airflow_run(DAG_ID)
    assert code == 0, log
    assert f"Refused by Splashify: {team.disabled} (inactive)" in log  # and the next in line got the conversations
    in_splashify, in_table = airflow_run.state()
    assert in_splashify == in_table
    moved = {phone for phone, holder in in_splashify.items() if before[phone] != holder}
    assert len(moved) == sandbox.workspace.answers[200] == 20
    assert f"{len(moved)} moved" in log
    assert "5 skipped" in log
    assert team.disabled not in in_splashify.values()

    sandbox.workspace.answers.clear()
    code, log = airflow_run(DAG_ID)
    assert code == 0, log
    assert airflow_run.state() == (in_splashify, in_table)
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
