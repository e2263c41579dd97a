"""The hand-over in a running Airflow: sizes, refused agents, approvals, kills, clears, and the first unpausing."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime, timedelta, timezone
from importlib.metadata import version

import psutil
import pytest
from packaging.version import Version

from tests.airflow_server import is_alive, standalone
from tests.task_groups.desk import GONE, NAMES, email, support_desk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(Version(version("apache-airflow")) < Version("3.1"), reason="approvals came with 3.1"),
]

# That a worker was killed is noticed by these, after five minutes by default.
HEARTBEATS = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    "AIRFLOW__CORE__PARALLELISM": "4",
}


class Run:
    """A run of one of the DAGs."""

    def __init__(self, airflow, dag_id, run_id):
        self.airflow, self.path, self.dag_id, self.run_id = airflow, f"/dags/{dag_id}/dagRuns/{run_id}", dag_id, run_id

    def ends(self, seconds=240):
        """Wait for its end, and return its state."""
        return self.airflow.wait_for(self.path, lambda run: run["state"] in ("success", "failed"), seconds)["state"]

    def states(self, task):
        """Return the states of a task's instances."""
        return [instance["state"] for instance in self.instances(task)]

    def instances(self, task):
        """Return a task's instances, up to a hundred."""
        path = f"{self.path}/taskInstances?task_id=handover.{task}&limit=100"
        return [found for found in self.airflow.api(path)["task_instances"] if found["task_id"] == f"handover.{task}"]

    def waits_in(self, task, *states, seconds=90):
        deadline = time.monotonic() + seconds
        while not set(self.states(task)) & set(states):
            assert time.monotonic() < deadline, self.states(task)
            time.sleep(0.5)

    def summary(self):
        return self.airflow.api(f"{self.path}/taskInstances/handover.summary/xcomEntries/return_value")["value"]

    def log(self, task, try_number=1):
        answer = self.airflow.api(f"{self.path}/taskInstances/handover.{task}/logs/{try_number}?full_content=true")
        return "\n".join(json.dumps(entry, ensure_ascii=False) for entry in answer["content"])

    def clear(self, *tasks, only_failed=False, **options):
        body = {"dag_run_id": self.run_id, "only_failed": only_failed, "dry_run": False, "reset_dag_runs": True}
        if tasks:
            body["task_ids"] = [task if isinstance(task, list) else f"handover.{task}" for task in tasks]
        self.airflow.api(f"/dags/{self.dag_id}/clearTaskInstances", {**body, **options})

    def answer(self, option):
        path = f"{self.path}/taskInstances/handover.approval/-1/hitlDetails"
        time.sleep(3)  # an answer in the same moment as the question can fail the task (Airflow 3.3)
        self.airflow.api(path, {"chosen_options": [option], "params_input": {}}, "PATCH")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("handover")
    with (
        support_desk(folder, has_approval=True, latency=0.01) as desk,
        standalone(folder, folder / "dags", HEARTBEATS, **desk.connections) as airflow,
    ):
        airflow.wait_for("/dags", lambda answer: answer["total_entries"] == 8, 120)
        airflow.api("/pools", {"name": "splashify", "slots": 2})
        for dag_id in ("handover", "checked", "two_of_them", "no_retries", "approved", "timed_out", "unanswered"):
            airflow.api(f"/dags/{dag_id}", {"is_paused": False}, "PATCH")
        yield desk, airflow


@pytest.fixture
def desk(world):
    return world[0]


@pytest.fixture
def start(world):
    def trigger(dag_id="handover", **body):
        run = world[1].api(f"/dags/{dag_id}/dagRuns", {"logical_date": None, **body})
        return Run(world[1], dag_id, run["dag_run_id"])

    return trigger


@pytest.mark.parametrize("size", [60, 100, 101, 3000])
def test_any_size_is_handed_over_with_a_request_each(start, desk, size):
    desk.open(*[GONE] * size)
    run = start()
    assert run.ends(600) == "success"
    assert desk.is_handed_over(size)
    assert len(desk.posted) == size
    assert run.summary()["moved"] == size
    instances = run.instances("assign")
    assert len(instances) == (size if size <= 100 else 1)
    agents = "|".join(NAMES)
    label = rf"…\d{{4}} → ({agents})@example\.com" if size <= 100 else f"{size:,} moves"
    for instance in instances:
        assert re.fullmatch(label, instance["rendered_map_index"])


def test_an_agent_disabled_before_the_plan_is_left_out_of_it(start, desk):
    desk.open(*[email("chitra")] * 20, *[email("ada")] * 20, *[GONE] * 80)
    desk.set_active(False, "chitra")
    run = start("checked")
    assert run.ends() == "success"
    assert desk.is_handed_over(120, "chitra")
    assert len(desk.posted) == run.summary()["moved"] + 2
    assert "chitra@example.com is left out of the plan" in run.log("plan")


@pytest.mark.parametrize("size", [20, 200])
def test_an_agent_disabled_between_plan_and_assign_costs_nobody_an_answer(start, desk, size):
    desk.open(*[GONE] * size)
    run = start("approved")
    run.waits_in("approval", "awaiting_input", "deferred")
    desk.set_active(False, "chitra")
    run.answer("Approve")
    assert run.ends() == "success"
    assert desk.is_handed_over(size, "chitra")
    refused = run.summary()["refused_agents"][email("chitra")]
    assert refused["failed"] == 0
    assert len(desk.posted) == size + (1 if size > 100 else refused["elsewhere"])


def test_an_agent_disabled_in_the_middle_of_a_batch_keeps_what_they_had_and_gets_no_more(start, desk):
    desk.open(*[GONE] * 400)
    desk.on_post = lambda: len(desk.posted) == 200 and desk.set_active(False, "chitra")
    run = start()
    assert run.ends() == "success"
    assert desk.is_handed_over(400)
    assert len(desk.posted) <= 400 + 8


def test_where_all_agents_are_refused_it_fails_with_their_names_and_is_repaired(start, desk):
    desk.open(*[GONE] * 120)
    desk.set_active(False, *NAMES)
    run = start()
    assert run.ends() == "failed"
    assert desk.holds() == {GONE: 120}
    assert len(desk.posted) == len(NAMES)
    log = run.log("summary")
    assert all(f"{email(name)} (inactive)" in log for name in NAMES)
    assert run.states("write_back") == ["failed"]
    desk.set_active(True, *NAMES)
    run.clear(only_failed=True)
    assert run.ends() == "success"
    assert desk.is_handed_over(120)


@pytest.mark.every_airflow
class TestApproval:
    def test_approved_moves(self, start, desk):
        desk.open(*[GONE] * 10)
        run = start("approved")
        run.waits_in("approval", "awaiting_input", "deferred")
        assert desk.posted == []
        run.answer("Approve")
        assert run.ends() == "success"
        assert desk.is_handed_over(10)

    def test_rejected_moves_nothing_and_is_green(self, start, desk):
        desk.open(*[GONE] * 10)
        run = start("approved")
        run.waits_in("approval", "awaiting_input", "deferred")
        run.answer("Reject")
        assert run.ends() == "success"
        assert desk.posted == []
        assert run.summary()["status"] == "rejected"

    def test_timed_out_with_reject_as_default_moves_nothing_and_is_green(self, start, desk):
        desk.open(*[GONE] * 10)
        run = start("timed_out")
        assert run.ends() == "success"
        assert desk.posted == []
        assert run.summary()["status"] == "rejected"

    def test_without_an_answer_and_a_default_it_fails_once_and_whoever_is_to_know_is_told(self, start, desk):
        desk.open(*[GONE] * 10)
        run = start("unanswered")
        assert run.ends() == "failed"
        assert desk.posted == []
        assert [instance["try_number"] for instance in run.instances("approval")] == [1]
        assert "Nothing was moved: the approval failed or timed out." in run.log("summary")
        deadline = time.monotonic() + 60
        while "failed: unanswered" not in (notes := (desk.path.parent / "notes.txt").read_text()):
            assert time.monotonic() < deadline, notes
            time.sleep(1)
        assert "asked about manual__" in notes  # by the approvals before

    def test_is_not_asked_for_a_dry_run(self, start, desk):
        desk.open(*[GONE] * 10)
        run = start("approved", conf={"dry_run": True})
        assert run.ends() == "success"
        assert desk.posted == []
        assert run.states("approval") == ["skipped"]

    @pytest.mark.skipif(Version(version("apache-airflow")) < Version("3.3"), reason="the page differs before")
    def test_in_the_browser(self, start, desk, world, browser_page):
        desk.open(*[GONE] * 10)
        run = start("approved")
        run.waits_in("approval", "awaiting_input", "deferred")
        time.sleep(3)
        page = browser_page
        page.goto(f"{world[1].url}/dags/approved/runs/{run.run_id}/tasks/handover.approval/required_actions")
        page.get_by_text("zoe@example.com").first.wait_for()
        page.get_by_role("button", name="Approve").first.click()
        assert run.ends() == "success"
        assert desk.is_handed_over(10)


def test_a_worker_killed_in_the_batch_loses_nothing(start, desk):
    desk.open(*[GONE] * 1000)
    run = start()
    deadline = time.monotonic() + 120
    while len(desk.posted) < 300:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (instance,) = run.instances("assign")
    process = psutil.Process(instance["pid"])
    process.kill()
    while is_alive(process.pid):
        time.sleep(0.05)
    assert run.ends() == "success"
    assert desk.is_handed_over(1000)
    assert len(desk.posted) <= 1000 + 200 + 8


def test_a_worker_killed_without_retries_leaves_it_red_and_what_it_made_written(start, desk):
    desk.open(*[GONE] * 1000)
    run = start("no_retries")
    deadline = time.monotonic() + 120
    while len(desk.posted) < 500:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    psutil.Process(run.instances("assign")[0]["pid"]).kill()
    assert run.ends() == "failed"
    assert run.states("write_back") == ["failed"]
    with desk.database() as database:
        (left,) = database.execute("SELECT COUNT(*) FROM conversations WHERE agent_email = ?", (GONE,)).fetchone()
    assert 1000 - left >= 500 - 200  # published as it was made
    run.clear(only_failed=True)
    assert run.ends() == "success"
    assert desk.is_handed_over(1000)


@pytest.mark.parametrize("size", [20, 200])
def test_two_in_a_dag_one_inside_a_group_with_a_pool_and_a_task_that_hangs_on_assign(start, desk, size):
    desk.open(*[GONE] * size)
    desk.set_active(False, "chitra")
    run = start("two_of_them")
    assert run.ends() == "success"
    assert desk.is_handed_over(size, "chitra")
    found = run.airflow.api(f"{run.path}/taskInstances?limit=100")["task_instances"]
    states = {instance["task_id"]: instance["state"] for instance in found}
    assert states["after_assign"] == states["outer.one.summary"] == states["summary"] == "success"
    second = run.airflow.api(f"{run.path}/taskInstances/summary/xcomEntries/return_value")["value"]
    assert second["moved"] + second["kept"] == size
    assert (
        second["moved"] <= size / 10
    )  # what the next in line were given above their limits; not what chitra has room for


def test_single_mapped_tasks_are_cleared(start, desk):
    desk.open(*[GONE] * 5)
    run = start()
    assert run.ends() == "success"
    chat = next(iter(desk.sandbox.workspace.conversations.values()))
    agent, chat.agent_email = chat.agent_email, GONE  # somebody took it, in Splashify only
    label = f"…{chat.user_phone_number[-4:]} → {agent}"
    (index,) = [one["map_index"] for one in run.instances("assign") if one["rendered_map_index"] == label]
    run.clear(only_failed=False, task_ids=[["handover.assign", index]], include_downstream=True)
    assert run.ends() == "success"
    assert chat.agent_email == agent
    assert desk.is_handed_over(5)
    assert len(desk.posted) == 6


def test_the_whole_run_is_cleared(start, desk):
    desk.open(*[GONE] * 120)
    run = start()
    assert run.ends() == "success"
    run.clear()
    assert run.ends() == "success"
    assert desk.is_handed_over(120)
    assert len(desk.posted) == 120  # the plan made anew has nothing to move
    assert run.summary()["status"] == "empty"


def test_a_run_that_is_too_old_moves_nothing_and_is_green(start, desk):
    desk.open(*[GONE] * 5)
    run = start(logical_date=(datetime.now(timezone.utc) - timedelta(days=1)).isoformat())
    assert run.ends() == "success"
    assert desk.posted == []
    assert run.states("plan") == ["skipped"]
    assert run.summary()["status"] == "too_old"


def test_a_write_back_that_fails_is_cleared_and_writes(start, desk):
    desk.open(*[GONE] * 5)
    desk.on_post = lambda: len(desk.posted) == 5 and _rename(desk, "conversations", "away")
    run = start()
    assert run.ends() == "failed"
    assert run.states("assign") == ["success"] * 5
    assert "made and not written back: see write_back" in run.log("summary")
    _rename(desk, "away", "conversations")
    run.clear(only_failed=True)
    assert run.ends() == "success"
    assert desk.is_handed_over(5)
    assert len(desk.posted) == 5


def _rename(desk, old, new):
    with desk.database() as database:
        database.execute(f"ALTER TABLE {old} RENAME TO {new}")


def test_unpausing_for_the_first_time_shows_a_plan_and_moves_nothing(desk, world):
    desk.open(*[GONE] * 20)
    airflow = world[1]
    airflow.api("/dags/scheduled", {"is_paused": False}, "PATCH")
    runs = airflow.wait_for("/dags/scheduled/dagRuns", lambda answer: answer["dag_runs"], 90)["dag_runs"]
    run = Run(airflow, "scheduled", runs[0]["dag_run_id"])
    assert run.ends() == "success"
    airflow.api("/dags/scheduled", {"is_paused": True}, "PATCH")
    assert desk.posted == []
    assert run.summary()["status"] == "dry_run"
    assert "To hand over, set dry_run to False in the DAG" in run.log("plan")
