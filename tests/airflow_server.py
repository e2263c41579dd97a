"""A running Airflow 3 for tests: its REST API, and `airflow standalone` on ports of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

from tests.conftest import airflow_environment


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


class AirflowAPI:
    def __init__(self, url):
        self.url = url

    @cached_property
    def _token(self):
        return json.load(urllib.request.urlopen(f"{self.url}/auth/token", timeout=60))["access_token"]

    def api(self, path, body=None, method=None):
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/api/v2{path}", data, headers, method=method)
        return json.load(urllib.request.urlopen(request, timeout=60))

    def wait_for(self, path, condition, seconds=180):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition(answer := self.api(path)):
                return answer
            time.sleep(1)
        raise AssertionError(f"not in {seconds} s: {answer}")


def is_healthy(url):
    with suppress(OSError), urllib.request.urlopen(f"{url}/api/v2/monitor/health", timeout=5) as answer:
        return json.load(answer)["scheduler"]["status"] == "healthy"
    return False


def processes():
    """Give every living process with its parent and its session."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent, _, session = path.read_text().rpartition(")")[2].split()[:4]
            if state != "Z":
                yield int(path.parent.name), int(parent), int(session)


def parent_of(pid):
    return next(parent for process, parent, _ in processes() if process == pid)


def is_alive(pid):
    return any(process == pid for process, _, _ in processes())


def _stop(session):
    """End all processes of a session. Tasks have process groups of their own."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + 5
        while (left := [pid for pid, _, its in processes() if its == session]) and time.monotonic() < deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, sign)
            time.sleep(0.5)
    assert not left


@contextmanager
def standalone(folder, dags, **connections):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        **airflow_environment(folder / "airflow", dags, **connections),
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": port,
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": free_port(),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": free_port(),
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": free_port(),
    }
    output = folder / "standalone.log"
    with output.open("w") as log:
        process = subprocess.Popen(
            ["airflow", "standalone"], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 180
        while not is_healthy(url):
            assert process.poll() is None, output.read_text()[-5000:]
            assert time.monotonic() < deadline, output.read_text()[-5000:]
            time.sleep(1)
        yield AirflowAPI(url)
    finally:
        _stop(process.pid)
        process.wait()
