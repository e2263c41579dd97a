"""The bulk operator in workers that are killed without a warning, and tried again as Airflow would."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter

import pytest

from splashify_provider.bulk.record import CHUNK
from splashify_provider.sandbox.server import Sandbox
from splashify_provider.sandbox.workspace import DEFAULT_KEY
from tests.conftest import ADA, BEN, number, team

pytestmark = pytest.mark.slow

# One try of a task. The store is a folder, so that it outlives the process as Airflow's database does.
WORKER = """
import pathlib, sys
from types import SimpleNamespace
from splashify_provider.operators.splashify import SplashifyBulkAssignOperator

class Store:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
    def get(self, key, default=None):
        path = self.folder / key
        return path.read_text() if path.exists() else default
    def set(self, key, value):
        (self.folder / "new").write_text(value)
        (self.folder / "new").rename(self.folder / key)
    def clear(self):
        for path in self.folder.iterdir():
            path.unlink()

plan, store, report = sys.argv[1:]
context = {"ti": SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, xcom_push=lambda **_: None)}
if store != "-":
    context["task_state_store"] = Store(store)
SplashifyBulkAssignOperator(task_id="t", assignments=plan, report_path=report).execute(context)
"""


@pytest.mark.parametrize("remembers", ["state store", "report"])
def test_every_conversation_ends_with_its_agent_and_at_most_one_chunk_is_sent_twice(tmp_path, monkeypatch, remembers):
    size, seed = 3000, random.randrange(10**6)
    chance = random.Random(seed)
    planned = {number(index): chance.choice([ADA, BEN]) for index in range(size)}
    plan, store, report = tmp_path / "plan.csv", tmp_path / "store", tmp_path / "report.jsonl"
    store.mkdir()
    plan.write_text("user_phone_number,agent_email\n" + "".join(f"+{key},{agent}\n" for key, agent in planned.items()))
    trouble = {"n9": "server_error:1", "n700": "reset:1", "n1500": "rate_limited_header:1"}
    with Sandbox(team(size, **trouble), rate_limit=10**9) as sandbox:
        sent: Counter[str] = Counter()
        assign = sandbox.workspace.assign
        sandbox.workspace.assign = lambda phone, agent: sent.update([phone]) or assign(phone, agent)
        extra = {"requests_per_minute": 100_000}
        connection = {"conn_type": "splashify", "password": DEFAULT_KEY, "host": sandbox.base_url, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_SPLASHIFY_DEFAULT", json.dumps(connection))
        command = [sys.executable, "-c", WORKER, plan, store if remembers == "state store" else "-", report]
        kills = 0
        for _ in range(30):
            worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            before, wanted = sent.total(), chance.randrange(50, 900)
            while worker.poll() is None and (sent.total() - before < wanted or kills == 5):
                time.sleep(0.002)
            if worker.poll() is not None:
                break
            worker.kill()
            worker.wait()
            kills += 1
        assert worker.returncode == 0, seed
        assert kills >= 3
        assert {
            chat.user_phone_number: chat.agent_email for chat in sandbox.workspace.conversations.values()
        } == planned
        assert sent.total() - size <= kills * CHUNK, seed
        assert list(store.iterdir()) == []


def test_twenty_thousand_go_through(monkeypatch, tmp_path):
    size = 20_000
    phones = [f"1202{index:07d}" for index in range(2_000_000, 2_000_000 + size)]
    rows = [json.dumps({"user_phone_number": f"+{phone}", "agent_email": ADA}) for phone in phones]
    (tmp_path / "plan.jsonl").write_text("\n".join(rows))
    seed = {"agents": [{"email": ADA}], "conversations": [{"user_phone_number": phone} for phone in phones]}
    with Sandbox(seed, rate_limit=10**9) as sandbox:
        extra = {"requests_per_minute": 100_000}
        connection = {"conn_type": "splashify", "password": DEFAULT_KEY, "host": sandbox.base_url, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_SPLASHIFY_DEFAULT", json.dumps(connection))
        (tmp_path / "store").mkdir()
        command = [sys.executable, "-c", WORKER, tmp_path / "plan.jsonl", tmp_path / "store", tmp_path / "report.jsonl"]
        assert subprocess.run(command, check=False, capture_output=True).returncode == 0
        assert sandbox.workspace.answers == {200: size}
        assert len((tmp_path / "report.jsonl").read_text().splitlines()) == size + 1  # and the end
