"""Part 2: Airflow standalone on SQLite, and how long tasks in it take."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measure import HERE

if TYPE_CHECKING:
    from collections.abc import Iterator


class Airflow:
    """A running Airflow's REST API.

    :param port: Where it listens.
    """

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._token = ""

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Make one call."""
        request = urllib.request.Request(self._url + path, method=method)
        request.add_header("Content-Type", "application/json")
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(request, data, timeout=30) as response:
            return json.loads(response.read())

    def wait_until_healthy(self) -> None:
        """Wait for the scheduler, and log in."""
        for _ in range(180):
            try:
                if self.call("GET", "/api/v2/monitor/health")["scheduler"]["status"] == "healthy":
                    break
            except OSError:
                pass
            time.sleep(1)
        self._token = self.call("GET", "/auth/token")["access_token"]

    def run(self, dag: str) -> Run:
        """Run a DAG."""
        self.call("PATCH", f"/api/v2/dags/{dag}", {"is_paused": False})
        run_id = self.call("POST", f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None})["dag_run_id"]
        path = f"/api/v2/dags/{dag}/dagRuns/{urllib.request.quote(run_id)}"
        while (dag_run := self.call("GET", path))["state"] not in ("success", "failed"):
            time.sleep(1)
        tasks: list[Any] = []
        while len(tasks) % 100 == 0:
            page = self.call("GET", f"{path}/taskInstances?task_id=assign&limit=100&offset={len(tasks)}")
            tasks += page["task_instances"]
            if len(tasks) >= page["total_entries"]:
                break
        return Run(dag_run, path, [task for task in tasks if task["task_id"] == "assign"])

    def measure(self, dag: str) -> dict[str, float]:
        """Run a DAG that must succeed. Give the seconds that its tasks ``assign`` took, and their CPU."""
        run = self.run(dag)
        if run.dag_run["state"] != "success":
            sys.exit(f"{dag} failed.")
        entries = (f"taskInstances/assign/xcomEntries/return_value?map_index={task['map_index']}" for task in run.tasks)
        cpu = sum(float(self.call("GET", f"{run.path}/{entry}")["value"]) for entry in entries)
        return {"seconds": _seconds(run.tasks), "cpu": cpu}


@dataclass(frozen=True)
class Run:
    """A DAG run that has ended, and its task instances ``assign``."""

    dag_run: Any
    path: str
    tasks: list[Any]

    @property
    def seconds(self) -> float:
        """From the run's start to its end, retries and all."""
        return _seconds([self.dag_run])


def _seconds(what: list[Any]) -> float:
    starts, ends = ([datetime.fromisoformat(item[date]) for item in what] for date in ("start_date", "end_date"))
    return (max(ends) - min(starts)).total_seconds()


@contextmanager
def standalone(folder: Path, port: int, **environment: str) -> Iterator[Airflow]:
    """Run Airflow standalone with the benchmarks' DAGs."""
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(HERE / "dags"),
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(port + 1),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(port + 2),
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(port + 3),
        **environment,
    }
    for command in (["db", "migrate"], ["dags", "reserialize"]):
        subprocess.run(["airflow", *command], env=variables, check=True, capture_output=True)
    with (folder / "standalone.log").open("w") as log:
        process = subprocess.Popen(
            ["airflow", "standalone"], env=variables, stdout=log, stderr=log, start_new_session=True
        )
    try:
        airflow = Airflow(port)
        airflow.wait_until_healthy()
        yield airflow
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        time.sleep(3)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
