"""DAG runs in a running Airflow, and what they took."""

from __future__ import annotations

import sys
import urllib.parse
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.airflow_server import AirflowAPI


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


def run(airflow: AirflowAPI, dag: str) -> Run:
    """Run a DAG."""
    airflow.wait_for("/dags", lambda answer: dag in {one["dag_id"] for one in answer["dags"]})
    airflow.api(f"/dags/{dag}", {"is_paused": False}, "PATCH")
    run_id = airflow.api(f"/dags/{dag}/dagRuns", {"logical_date": None})["dag_run_id"]
    path = f"/dags/{dag}/dagRuns/{urllib.parse.quote(run_id)}"
    dag_run = airflow.wait_for(path, lambda answer: answer["state"] in ("success", "failed"), 3600)
    tasks: list[Any] = []
    while len(tasks) % 100 == 0:
        page = airflow.api(f"{path}/taskInstances?task_id=assign&limit=100&offset={len(tasks)}")
        tasks += page["task_instances"]
        if len(tasks) >= page["total_entries"]:
            break
    return Run(dag_run, path, [task for task in tasks if task["task_id"] == "assign"])


def measure(airflow: AirflowAPI, dag: str) -> dict[str, float]:
    """Run a DAG that must succeed. Give the seconds that its tasks ``assign`` took, and their CPU."""
    ended = run(airflow, dag)
    if ended.dag_run["state"] != "success":
        sys.exit(f"{dag} failed.")
    entries = (f"taskInstances/assign/xcomEntries/return_value?map_index={task['map_index']}" for task in ended.tasks)
    cpu = sum(float(airflow.api(f"{ended.path}/{entry}")["value"]) for entry in entries)
    return {"seconds": _seconds(ended.tasks), "cpu": cpu}


def _seconds(what: list[Any]) -> float:
    starts, ends = ([datetime.fromisoformat(item[date]) for item in what] for date in ("start_date", "end_date"))
    return (max(ends) - min(starts)).total_seconds()
