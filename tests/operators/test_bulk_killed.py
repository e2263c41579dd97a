"""The bulk operator in workers that are killed without a warning, and tried again as Airflow would."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import psutil
import pytest

from splashify_provider.bulk.checkpoint import CHUNK
from splashify_provider.sandbox.server import Sandbox
from splashify_provider.sandbox.workspace import DEFAULT_KEY
from tests.airflow_server import is_alive
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
context = {"ti": SimpleNamespace(xcom_push=lambda **_: None), "task_state_store": Store(store)}
SplashifyBulkAssignOperator(task_id="t", assignments=plan, report_path=report).execute(context)
"""

# As Airflow's supervisor does: a child in a process group of its own, which outlives its parent.
SUPERVISOR = """
import os, sys
if os.fork() == 0:
    os.setpgid(0, 0)
    exec(sys.argv.pop(1))
else:
    os.wait()
"""


@pytest.fixture
def splashify(monkeypatch, tmp_path):
    """Give a function that starts a Splashify. It gives what was sent to whom, and a command that is one try."""
    running = []

    def start(seed, plan, **options):
        running.append(Sandbox(seed, rate_limit=10**9, **options))
        sandbox = running[-1].__enter__()
        sent: Counter[str] = Counter()
        assign = sandbox.workspace.assign
        sandbox.workspace.assign = lambda phone, agent: sent.update([phone]) or assign(phone, agent)
        connection = {"conn_type": "splashify", "password": DEFAULT_KEY, "host": sandbox.base_url}
        connection["extra"] = {"requests_per_minute": 100_000}
        monkeypatch.setenv("AIRFLOW_CONN_SPLASHIFY_DEFAULT", json.dumps(connection))
        lines = [f"+{phone},{agent}\n" for phone, agent in plan.items()]
        (tmp_path / "plan.csv").write_text("user_phone_number,agent_email\n" + "".join(lines))
        (tmp_path / "store").mkdir()
        return sandbox.workspace, sent, [WORKER, tmp_path / "plan.csv", tmp_path / "store", tmp_path / "report.jsonl"]

    yield start
    for sandbox in running:
        sandbox.__exit__(None, None, None)


def popen(*command):
    output = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, "-c", *command], stdout=output, stderr=output, start_new_session=True)


def holders(workspace):
    return {chat.user_phone_number: chat.agent_email for chat in workspace.conversations.values()}


def test_every_conversation_ends_with_its_agent_and_at_most_one_chunk_is_sent_twice(splashify, tmp_path):
    size, seed = 3000, random.randrange(10**6)
    chance = random.Random(seed)
    planned = {number(index): chance.choice([ADA, BEN]) for index in range(size)}
    trouble = {"n9": "server_error:1", "n700": "reset:1", "n1500": "rate_limited_header:1"}
    workspace, sent, command = splashify(team(size, **trouble), planned)
    kills = 0
    for _ in range(30):
        worker = popen(*command)
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
    assert holders(workspace) == planned
    assert sent.total() - size <= kills * CHUNK, seed
    assert list((tmp_path / "store").iterdir()) == []


def test_a_task_whose_worker_is_killed_stops_at_once_and_the_next_one_does_the_rest(splashify, tmp_path):
    planned = {number(index): ADA for index in range(1000)}
    workspace, sent, command = splashify(team(1000), planned, latency=0.05)
    supervisor = popen(SUPERVISOR, *command)
    while sent.total() < 300:
        time.sleep(0.002)
    (task,) = psutil.Process(supervisor.pid).children()
    os.killpg(supervisor.pid, signal.SIGKILL)
    killed, sent_then = time.monotonic(), sent.total()
    supervisor.wait()
    while is_alive(task.pid):
        time.sleep(0.02)
    assert time.monotonic() - killed < 5
    assert sent.total() - sent_then <= 8 + 8  # what was under way, and what it was about to send
    sent_before = sent.total()
    assert popen(*command).wait() == 0
    assert holders(workspace) == planned
    assert sent.total() - 1000 <= sent_before - sent_then
    assert list((tmp_path / "store").iterdir()) == []


def test_twenty_thousand_go_through(splashify, tmp_path):
    planned = {f"1202{index:07d}": ADA for index in range(2_000_000, 2_020_000)}
    seed = {"agents": [{"email": ADA}], "conversations": [{"user_phone_number": phone} for phone in planned]}
    workspace, _, command = splashify(seed, planned)
    assert popen(*command).wait() == 0
    assert workspace.answers == {200: len(planned)}
    assert len((tmp_path / "report.jsonl").read_text().splitlines()) == len(planned)
