"""What all example DAGs have in common: the plan is shown before anything is sent, and can be all there is."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from tests.dags.conftest import DAGS

AT = datetime(2026, 11, 22, 13, tzinfo=timezone.utc)
NAMES = sorted(path.stem for path in DAGS.glob("*.py"))


@pytest.fixture(params=NAMES)
def plan(request, load_dag):
    """Call a DAG's planning task as Airflow would."""
    _, dag = load_dag(request.param)
    function = dag.get_task("plan").python_callable

    def call(shifts, conversations, dry_run=False, **context):
        pulled = (
            (shifts, conversations)
            if "oncall" in request.param
            else ({"shifts": shifts, "conversations": conversations},)
        )
        context = context or {"data_interval_end": AT}
        return function(*pulled, params={"dry_run": dry_run}, **context)

    return call


def shift(name, start=-1, end=1):
    hours = [(AT + timedelta(hours=offset)).isoformat() for offset in (start, end)]
    return {"agent_email": f"{name}@example.com", "start": hours[0], "end": hours[1]}


def chat(number, name=None):
    return {"user_phone_number": f"+1 202 555 01{number:02d}", "agent_email": name and f"{name}@example.com"}


def test_there_are_three():
    assert NAMES == ["splashify_oncall_handover", "splashify_owner_routing", "splashify_shift_handover"]


def test_the_log_shows_who_gets_whom_and_why(plan, log):
    moves = plan([shift("ada"), shift("ben", 1, 2)], [chat(1, "ben"), chat(2, "ada")])
    assert moves == [{"user_phone_number": "+1 202 555 0101", "agent_email": "ada@example.com"}]
    shown = log.text
    assert "moved  1  ben@example.com → ada@example.com  ben@example.com is not on duty; ada@example.com is" in shown
    assert "kept  1  ada@example.com  ada@example.com is on duty" in shown
    assert "555" not in shown


def test_a_dry_run_shows_the_same_and_assigns_nothing(plan, log):
    assert plan([shift("ada")], [chat(1, "ben")], dry_run=True) == []
    assert "ben@example.com → ada@example.com" in log.text


def test_a_late_run_plans_for_when_it_was_due(plan):
    run = SimpleNamespace(run_after=AT - timedelta(hours=2))
    (move,) = plan([shift("ada"), shift("ben", -3, -1)], [chat(1)], dag_run=run)
    assert move["agent_email"] == "ben@example.com"


def test_a_run_by_hand_plans_for_when_it_was_asked_for(plan):
    """Its data interval may be the last scheduled one, hours ago, as on Airflow 2."""
    context = {"data_interval_end": AT - timedelta(hours=2), "logical_date": AT}
    (move,) = plan([shift("ada"), shift("ben", -3, -1)], [chat(1)], **context)
    assert move["agent_email"] == "ada@example.com"


def test_a_bad_row_fails_at_once_and_says_which_and_what_to_clear(plan):
    with pytest.raises(
        AirflowFailException, match=r"shift 2: end is missing .*ben@example.com.\nCorrect .*then clear the task"
    ):
        plan([shift("ada"), {**shift("ben"), "end": None}], [chat(1)])


@pytest.mark.parametrize("name", NAMES)
def test_it_says_in_the_ui_what_it_needs_and_how_to_look_first(load_dag, name):
    _, dag = load_dag(name)
    for word in ("splashify_default", "support_db", "dry_run", "user_phone_number, agent_email, status"):
        assert word in dag.doc_md
    assert dag.params["dry_run"] is False
    assert dag.catchup is False
    assert dag.max_active_runs == 1


@pytest.mark.parametrize("name", NAMES)
def test_it_is_short_enough_to_be_copied(name):
    assert len((DAGS / f"{name}.py").read_text().splitlines()) < 190
