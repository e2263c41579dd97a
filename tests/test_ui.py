"""`make airflow` as a person uses it, in a real browser: the form, a run, a failed task, the repair, the clear."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from contextlib import closing, suppress
from datetime import datetime, timezone
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


def test_a_failed_hand_over_is_understood_repaired_and_cleared(ui, browser_page):
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

    # Nobody on duty can take chats. One of them is disabled as it is.
    page.goto(ui.inbox)
    now = datetime.now(timezone.utc)
    with closing(sqlite3.connect(ROOT / ".demo" / "support.db")) as database, database:
        on_duty = {
            agent
            for agent, start, end in database.execute("SELECT agent_email, starts_at, ends_at FROM roster")
            if datetime.fromisoformat(start) <= now < datetime.fromisoformat(end)
        }
        # Ten are enough: a hundred requests a minute are soon used up.
        some = f"""SELECT user_phone_number FROM conversations WHERE status = 'open'
            AND agent_email NOT IN ({", ".join("?" * len(on_duty))}) LIMIT 10"""
        database.execute(
            f"UPDATE conversations SET status = 'closed' WHERE user_phone_number NOT IN ({some})", [*on_duty]
        )
    names = [agent.split("@")[0].title() for agent in on_duty]
    for name in names:
        card = page.locator(".inbox", has_text=name)
        card.get_by_role("button", name="Disable").or_(card.get_by_role("button", name="Enable")).wait_for()
        if card.get_by_role("button", name="Disable").count():
            card.get_by_role("button", name="Disable").click()
        card.get_by_role("button", name="Enable").wait_for()

    # A run by hand. The scheduled one of the current shift may come along.
    page.goto(ui.dag)
    page.get_by_role("button", name="Trigger").first.click()
    dialog.get_by_role("button", name="Trigger").click()
    runs = ui.wait_for(
        "/dags/splashify_shift_handover/dagRuns",
        lambda answer: answer["dag_runs"] and all(run["state"] in ("failed", "success") for run in answer["dag_runs"]),
    )["dag_runs"]
    run_id = next(run["dag_run_id"] for run in runs if run["run_type"] == "manual")
    path = f"/dags/splashify_shift_handover/dagRuns/{run_id}"
    failed = ui.api(f"{path}/taskInstances?task_id=handover.assign&limit=100")["task_instances"]
    failed = [one for one in failed if (one["task_id"], one["state"]) == ("handover.assign", "failed")]
    assert failed
    assert failed[0]["try_number"] == 1
    assert re.fullmatch(r"…\d{4} → \w+@example\.com", failed[0]["rendered_map_index"])

    # The plan
    page.goto(f"{ui.dag}/runs/{run_id}/tasks/handover.plan")
    page.get_by_text(re.compile(r"\d+ kept, \d+ to move, 0 without an agent on duty")).first.wait_for()
    page.get_by_text(re.compile(rf"moved +\d+ +\S+ → {failed[0]['rendered_map_index'].split()[-1]}")).first.wait_for()

    # What has come of it, and the log of one of its tasks
    page.goto(f"{ui.dag}/runs/{run_id}/tasks/handover.summary")
    page.get_by_text(re.compile(r"Refused by Splashify: \w+@example\.com \(inactive\)")).first.wait_for()
    page.get_by_text(re.compile(r"Enable \w+@example\.com, .* in Splashify under Settings → Team")).first.wait_for()
    page.get_by_text("clear the failed tasks of this run").first.wait_for()
    page.goto(f"{ui.dag}/runs/{run_id}/tasks/handover.assign/mapped/{failed[0]['map_index']}")
    page.get_by_text(re.compile("Agent inactive: .* is disabled in Splashify")).first.wait_for()
    assert "sk_live_sandbox" not in page.inner_text("body")

    # The repair, and the clear
    page.goto(ui.inbox)
    for name in names:
        card = page.locator(".inbox", has_text=name)
        card.get_by_role("button", name="Enable").click()
        card.get_by_role("button", name="Disable").wait_for()
    page.goto(f"{ui.dag}/runs/{run_id}")
    page.get_by_role("button", name="clear", exact=False).first.click()
    dialog.get_by_text("Only Failed", exact=False).first.click()
    dialog.get_by_role("button", name="Confirm").click()
    ui.wait_for(path, lambda run: run["state"] == "success", 240)
    with closing(sqlite3.connect(ROOT / ".demo" / "support.db")) as database:
        rows = dict(database.execute("SELECT user_phone_number, agent_email FROM conversations WHERE status = 'open'"))
    table = {"".join(filter(str.isdigit, phone)): agent for phone, agent in rows.items()}
    state = json.load(urllib.request.urlopen(f"{ui.inbox}sandbox/state", timeout=30))
    held = {chat["user_phone_number"]: chat["agent_email"] for chat in state["conversations"] if chat["open"]}
    handed_over = {phone: agent for phone, agent in table.items() if phone in held}  # the others are closed there
    assert handed_over.items() <= held.items()
    assert handed_over
    assert set(handed_over.values()) <= on_duty
