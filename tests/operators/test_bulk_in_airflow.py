"""The bulk operator in a running Airflow: its task is stopped, killed, retried and cleared."""

from __future__ import annotations

import json
import time
from collections import Counter
from importlib.metadata import version

import psutil
import pytest
from dateutil.parser import isoparse
from packaging.version import Version

from splashify_provider.bulk.checkpoint import CHUNK
from splashify_provider.sandbox.server import Sandbox
from splashify_provider.sandbox.workspace import DEFAULT_KEY
from tests.airflow_server import is_alive, standalone
from tests.conftest import ADA, number, team

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        Version(version("apache-airflow")) < Version("3.3"), reason="the task state store came with 3.3"
    ),
]

SIZE, LATENCY = 1000, 0.1  # with 8 in flight at least 12 seconds
SECONDS_UNTIL_SIGKILL = 5  # after Airflow's SIGTERM

# That a worker was killed is noticed by these, after five minutes by default.
HEARTBEATS = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
}

DAG = """
import datetime

from airflow.providers.common.compat.sdk import DAG

from splashify_provider.operators.splashify import SplashifyBulkAssignOperator

with DAG("handover", schedule=None, is_paused_upon_creation=False):
    SplashifyBulkAssignOperator(
        task_id="assign",
        assignments="{folder}/plan.csv",
        report_path="{folder}/{{{{ run_id }}}}.jsonl",
        retries=1,
        retry_delay=datetime.timedelta(seconds=5),
    )
"""


class Run:
    """A run of the DAG."""

    def __init__(self, airflow, folder, posted):
        self._airflow, self._folder, self.posted = airflow, folder, posted
        posted.clear()
        self._id = airflow.api("/dags/handover/dagRuns", {"logical_date": None})["dag_run_id"]
        self._task = f"/dags/handover/dagRuns/{self._id}/taskInstances/assign"

    def process_once_posted(self, count):
        wait_until(lambda: self.posted.total() >= count)
        return self._airflow.api(self._task)["pid"]

    def mark_as_failed(self):
        self._airflow.api(self._task, {"new_state": "failed"}, "PATCH")

    def clear(self):
        # A run that the scheduler is about to end would stay ended, with its cleared task waiting for ever.
        run = f"/dags/handover/dagRuns/{self._id}"
        self._airflow.wait_for(run, lambda answer: answer["state"] in ("success", "failed"), 60)
        body = {"dag_run_id": self._id, "task_ids": ["assign"], "only_failed": False, "dry_run": False}
        self._airflow.api("/dags/handover/clearTaskInstances", body)

    def published(self):
        summary = self._airflow.api(f"{self._task}/xcomEntries/return_value")["value"]
        del summary["seconds"], summary["ended_at"]
        return summary

    def summary(self, try_number):
        """Wait for the try to succeed."""
        wanted = (try_number, "success")
        self._airflow.wait_for(self._task, lambda task: (task["try_number"], task["state"]) == wanted, 90)
        return self.published()

    def logged_at(self, words):
        """Find the first mention of words in what the UI shows as the first try's log."""
        entries = self._airflow.api(f"{self._task}/logs/1?full_content=true")["content"]
        entry = next(entry for entry in entries if words in json.dumps(entry))
        return isoparse(entry["timestamp"])

    def reported(self):
        lines = (self._folder / f"{self._id}.jsonl").read_text().splitlines()
        return Counter(json.loads(line)["outcome"] for line in lines)

    def posts_when_nothing_goes_out_any_more(self):
        posted = self.posted.total()
        time.sleep(2)
        assert self.posted.total() == posted
        return posted


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds} s"
        time.sleep(0.02)


def sent(assigned, *, done_before):
    """Give the summary of a try without failures."""
    counts = {"assigned": assigned}
    before = {"assigned": done_before} if done_before else {}
    nothing = {"duplicates": 0, "undone": 0, "not_done": [], "elsewhere": {}, "refused_agents": {}, "failures": []}
    return {"total": SIZE, "counts": counts, "done_before": before, "plan_id": "", **nothing}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("handover")
    (folder / "dags").mkdir()
    (folder / "dags" / "handover.py").write_text(DAG.format(folder=folder))
    (folder / "plan.csv").write_text(
        "user_phone_number,agent_email\n" + "".join(f"+{number(index)},{ADA}\n" for index in range(SIZE))
    )
    posted: Counter[str] = Counter()
    with Sandbox(team(SIZE), rate_limit=10**9, latency=LATENCY) as sandbox:
        assign = sandbox.workspace.assign
        sandbox.workspace.assign = lambda phone, agent: posted.update([phone]) or assign(phone, agent)
        extra = {"requests_per_minute": 100_000}
        connection = {"conn_type": "splashify", "password": DEFAULT_KEY, "host": sandbox.base_url, "extra": extra}
        with standalone(folder, folder / "dags", HEARTBEATS, splashify_default=connection) as airflow:
            airflow.wait_for("/dags", lambda answer: answer["total_entries"], 60)
            yield lambda: Run(airflow, folder, posted)


def test_a_task_marked_as_failed_stops_and_clearing_it_sends_only_the_rest(start):
    run = start()
    process = run.process_once_posted(300)
    run.mark_as_failed()
    wait_until(lambda: not is_alive(process))  # Airflow tells it with its next heartbeat
    posted = run.posts_when_nothing_goes_out_any_more()
    assert posted < SIZE
    stopping = run.logged_at("The task was told to stop (SIGTERM).") - run.logged_at("Terminating process")
    assert stopping.total_seconds() < SECONDS_UNTIL_SIGKILL
    done = run.reported()["assigned"]
    assert run.reported() == {"assigned": done}
    assert posted == done  # those under way when it was told to stop are known, too

    run.clear()
    assert run.summary(try_number=2) == sent(SIZE - done, done_before=done)
    assert run.posted.total() == len(run.posted) == SIZE
    assert run.reported() == {"assigned": SIZE, "done_before": done}

    run.posted.clear()
    run.clear()
    assert run.summary(try_number=3) == sent(SIZE, done_before=0)
    assert run.posted.total() == len(run.posted) == SIZE


def test_a_task_whose_supervisor_is_told_to_stop_is_retried_with_only_the_rest(start):
    run = start()
    process = run.process_once_posted(300)
    psutil.Process(process).parent().terminate()
    wait_until(lambda: not is_alive(process), SECONDS_UNTIL_SIGKILL)
    posted = run.posts_when_nothing_goes_out_any_more()
    assert run.logged_at("The task was told to stop (SIGTERM).")
    done = run.reported()["assigned"]
    assert posted == done  # those under way when it was told to stop are known, too

    assert run.summary(try_number=2) == sent(SIZE - done, done_before=done)
    assert run.posted.total() == len(run.posted) == SIZE


def test_a_task_that_is_killed_is_retried_with_all_but_its_last_chunk_done(start):
    run = start()
    process = run.process_once_posted(300)
    psutil.Process(process).kill()
    wait_until(lambda: not is_alive(process))
    published = run.published()
    assert published["counts"]["assigned"] + published["undone"] == SIZE
    assert run.posted.total() - CHUNK <= published["counts"]["assigned"] <= run.posted.total()
    posted = run.posts_when_nothing_goes_out_any_more()

    summary = run.summary(try_number=2)
    done = summary["done_before"]["assigned"]
    assert posted - CHUNK <= done <= posted
    assert summary == sent(SIZE - done, done_before=done)
    assert run.posted.total() == posted + SIZE - done
    assert len(run.posted) == SIZE


def test_a_task_whose_worker_is_killed_sends_nothing_more_and_is_retried_with_only_the_rest(start):
    run = start()
    process = run.process_once_posted(300)
    psutil.Process(process).parent().kill()
    posted_then = run.posted.total()
    wait_until(lambda: not is_alive(process), SECONDS_UNTIL_SIGKILL)
    posted = run.posts_when_nothing_goes_out_any_more()
    assert posted - posted_then <= 8 + 8  # what was under way, and what it was about to send

    summary = run.summary(try_number=2)
    assert posted - CHUNK <= summary["done_before"]["assigned"] <= posted
    assert run.posted.total() <= SIZE + CHUNK
    assert len(run.posted) == SIZE
