from __future__ import annotations

import json

import pytest
from airflow.providers.common.compat.sdk import AirflowException

from splashify_provider.routing import RoutingError
from tests.dags.conftest import DAGS, load

DAG_ID = "splashify_oncall_handover"


@pytest.fixture
def scheduler(monkeypatch, seed):
    """The scheduling service of the demo, with its connections."""
    oncall = load(DAGS / "demo" / "oncall.py")
    with oncall.OnCall([]) as running:
        for name, connection in running.connections.items():
            monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))
        yield running


@pytest.fixture
def pull_roster(load_dag):
    _, dag = load_dag(DAG_ID)
    function = dag.get_task("roster").python_callable

    def call(at, source):
        return function(data_interval_end=at, params={"roster": source})

    return call


@pytest.mark.parametrize("source", ["api", "calendar"])
def test_both_sources_give_who_is_on_call_at_that_moment_and_nobody_else(scheduler, pull_roster, seed, source):
    team = seed.make_team(seed.datetime(2026, 11, 22, 13, tzinfo=seed.ZONE))
    # 23 on call at once: three pages.
    shift = team.roster[0][1:]
    scheduler.roster = [(f"agent{number:02d}@example.com", *shift) for number in range(23)] + team.roster
    at = seed.datetime.fromisoformat(shift[0])
    found = pull_roster(at, source)
    expected = {agent for agent, start, _ in scheduler.roster if start == shift[0]}
    assert {row["agent_email"] for row in found} == expected
    assert len(expected) == 27
    if source == "api":
        assert len(scheduler.requests) == 6  # first and second in line, ten a page


def test_who_is_on_call_whenever_is_on_call_now(scheduler, pull_roster, seed, monkeypatch):
    entry = {"escalation_level": 1, "user": {"email": "ada@example.com"}, "start": None, "end": None}
    monkeypatch.setattr(scheduler, "oncalls", lambda query: {"oncalls": [entry], "more": False})
    at = seed.datetime(2026, 11, 22, 13, tzinfo=seed.ZONE)
    (row,) = pull_roster(at, "api")
    assert row["start"] == at.isoformat() < row["end"]


def test_a_calendar_that_cant_be_read_fails(scheduler, pull_roster, seed, monkeypatch):
    monkeypatch.setattr(scheduler, "calendar", lambda: "<html>Sign in</html>")
    with pytest.raises(RoutingError, match="not a calendar"):
        pull_roster(seed.datetime(2026, 11, 22, 13, tzinfo=seed.ZONE), "calendar")


@pytest.mark.parametrize("change", [{"password": "private/demo-feed-address-of-old"}, {"host": "http://127.0.0.1:9"}])
def test_a_calendar_that_cant_be_fetched_keeps_its_address_to_itself(
    scheduler, pull_roster, seed, monkeypatch, caplog, log, change
):
    caplog.set_level("INFO", "urllib3")  # as it is unless somebody debugs
    connection = {**scheduler.connections["oncall_calendar"], **change}
    monkeypatch.setenv("AIRFLOW_CONN_ONCALL_CALENDAR", json.dumps(connection))
    with pytest.raises(AirflowException, match=r"can't be fetched: (HTTPError \(401\)|ConnectionError)") as raised:
        pull_roster(seed.datetime(2026, 11, 22, 13, tzinfo=seed.ZONE), "calendar")
    assert raised.value.__suppress_context__
    assert "demo-feed-address" not in f"{log.text} {raised.value}"


def test_only_the_schedules_asked_for_count(scheduler, load_dag, seed, monkeypatch):
    module, _ = load_dag(DAG_ID)
    team = seed.make_team(seed.datetime(2026, 11, 22, 13, tzinfo=seed.ZONE))
    scheduler.roster = team.roster
    at = seed.datetime.fromisoformat(team.roster[0][1])
    for schedules, count in ((["PDEMO02"], 4), (["POTHER"], 0), ([], 4)):
        monkeypatch.setattr(module, "SCHEDULES", schedules)
        assert len(module.from_api(at)) == count


def test_the_stand_in_wants_a_key_as_pagerduty_does(scheduler, pull_roster, seed, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_ONCALL_API", json.dumps({**scheduler.connections["oncall_api"], "extra": "{}"}))
    with pytest.raises(Exception, match="401"):
        pull_roster(seed.datetime(2026, 11, 22, 13, tzinfo=seed.ZONE), "api")


@pytest.mark.slow
def test_a_dry_run_then_the_calendar_then_the_api(airflow_run):
    for agent in airflow_run.sandbox.workspace.agents.values():
        agent.active = True
    before = airflow_run.state()
    code, log = airflow_run(DAG_ID, dry_run=True)
    assert code == 0, log
    assert "is not on duty;" in log
    assert airflow_run.state() == before
    assert not airflow_run.sandbox.workspace.answers

    code, log = airflow_run(DAG_ID, roster="calendar")
    assert code == 0, log
    handed_over = airflow_run.state()
    assert airflow_run.sandbox.workspace.answers[200] == 20
    assert handed_over[0] == handed_over[1]

    code, log = airflow_run(DAG_ID)
    assert code == 0, log
    assert airflow_run.state() == handed_over
    assert airflow_run.sandbox.workspace.answers[200] == 20
