"""A running Airflow 3 for tests and benchmarks: its REST API, and `airflow standalone` on ports of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

import psutil


def airflow_environment(home, dags, **connections):
    """Give an environment for ``airflow`` commands with these DAGs and connections only."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW__")},
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        **{f"AIRFLOW_CONN_{name.upper()}": json.dumps(connection) for name, connection in connections.items()},
    }


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


def is_alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def session(leader):
    """Give the processes of a session. Tasks have process groups of their own in it."""
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                yield process


@contextmanager
def standalone(folder, dags, variables=None, **connections):
    """Run Airflow with these DAGs, environment variables and connections. Give its REST API."""
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
        **(variables or {}),
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
        for end in (psutil.Process.terminate, psutil.Process.kill):
            members = list(session(process.pid))
            for member in members:
                with suppress(psutil.NoSuchProcess):
                    end(member)
            psutil.wait_procs(members, timeout=5)
        process.wait()
        assert not list(session(process.pid))
