"""`make airflow` as a person uses it, in a real browser: the form, a run, a failed task, the repair, the clear."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.airflow_server import AirflowAPI, free_port

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not version("apache-airflow").startswith("3.3."), reason="`make airflow` runs Airflow 3.3"),
]


def started_by_the_demo():
    """Find processes that still have the demo's Airflow as theirs."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"AIRFLOW_HOME={ROOT / '.demo' / 'airflow'}".encode() in path.read_bytes():
                yield path


class UI(AirflowAPI):
    def __init__(self, process, airflow, inbox):
        super().__init__(airflow)
        self.process, self.inbox = process, inbox
        self.dag = f"{airflow}/dags/splashify_shift_handover"


@pytest.fixture(scope="module")
def ui():
    environment = {**os.environ, "AIRFLOW_PORT": free_port(), "SANDBOX_PORT": free_port(), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, ROOT / "dags" / "demo" / "ui.py"], env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    said = ""
    while "Ctrl-C stops everything" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    yield UI(process, *re.search(r"Airflow +(http://[^/]+)/.*Inboxes +(http://\S+)", said, re.DOTALL).groups())
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert "Stopped." in process.stdout.read()
    assert not list(started_by_the_demo())


def test_a_failed_assignment_is_understood_repaired_and_cleared(ui, browser_page):
    page = browser_page

    assert list(started_by_the_demo())

    # The connection form
    page.goto(f"{ui.url}/connections")
    page.get_by_role("button", name="Add Connection").click()
    dialog = page.locator("[role=dialog]")
    dialog.locator("input[role=combobox]").first.click()
    page.keyboard.type("splashify")
    page.get_by_role("option", name="Splashify Pro").click()
    dialog.get_by_text("Base URL").wait_for()
    dialog.get_by_text("API key", exact=True).wait_for()
    dialog.get_by_text("Extra Fields", exact=True).click()
    dialog.get_by_text("Default region").wait_for()
    page.keyboard.press("Escape")

    # A run by hand. The scheduled one of the current shift may come along.
    page.goto(ui.dag)
    page.get_by_role("button", name="Trigger").first.click()
    dialog.get_by_role("button", name="Trigger").click()
    runs = ui.wait_for(
        "/dags/splashify_shift_handover/dagRuns",
        lambda answer: answer["dag_runs"] and all(run["state"] in ("failed", "success") for run in answer["dag_runs"]),
    )["dag_runs"]
    run_id = next(run["dag_run_id"] for run in runs if run["run_type"] == "manual")
    instances = ui.api(f"/dags/splashify_shift_handover/dagRuns/{run_id}/taskInstances?limit=100")["task_instances"]
    failed = [instance for instance in instances if (instance["task_id"], instance["state"]) == ("assign", "failed")]
    assert failed
    index = failed[0]["map_index"]
    assert re.fullmatch(r"…\d{4} → \w+@example\.com", failed[0]["rendered_map_index"])

    # The plan
    page.goto(f"{ui.dag}/runs/{run_id}/tasks/plan")
    page.get_by_text(re.compile(r"\d+ kept, \d+ moved, 0 without an agent on duty")).first.wait_for()
    page.get_by_text(re.compile(rf"moved +\d+ +\S+ → {failed[0]['rendered_map_index'].split()[-1]}")).first.wait_for()

    # Its log
    page.goto(f"{ui.dag}/runs/{run_id}/tasks/assign/mapped/{index}")
    page.get_by_text(re.compile("ERROR.* - Agent inactive: .* is disabled in Splashify")).first.wait_for()
    assert failed[0]["try_number"] == 1
    content = page.inner_text("body")
    assert "Enable them under Settings → Team, or take them off the roster. Then clear this task" in content
    assert "sk_live_sandbox" not in content

    # The repair, and the clear
    page.goto(ui.inbox)
    page.get_by_role("button", name="Enable").click()
    page.get_by_role("button", name="Enable").wait_for(state="detached")
    # By now she is off the roster. The task was planned for her, and does what was planned.
    planned = failed[0]["rendered_map_index"].split(" → ")[1]
    with closing(sqlite3.connect(ROOT / ".demo" / "support.db")) as database, database:
        assert database.execute("DELETE FROM roster WHERE agent_email = ?", (planned,)).rowcount
    page.goto(f"{ui.dag}/runs/{run_id}/tasks/assign/mapped/{index}")
    page.get_by_role("button", name="clear", exact=False).first.click()
    dialog.get_by_text("Affected Tasks: 3").wait_for()
    dialog.get_by_role("button", name="Confirm").click()
    cleared = ui.wait_for(
        f"/dags/splashify_shift_handover/dagRuns/{run_id}/taskInstances/assign/{index}",
        lambda instance: instance["try_number"] == 2 and instance["state"] == "success",
    )
    assert cleared["state"] == "success"
    page.goto(f"{ui.dag}/runs/{run_id}/tasks/assign/mapped/{index}")
    page.get_by_text(re.compile(f"Assigned …[0-9]{{4}} to {planned}")).first.wait_for()
