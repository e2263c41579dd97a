"""A whole hand-over in a running Airflow: this package's task group, a mapped HttpOperator, a loop in a task."""

from __future__ import annotations

import ast
import json
import os
import sqlite3
import urllib.request
from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import airflow_runs
import psutil
from client import AGENT, KEY, number
from measure import HERE, median, sandbox, table

from tests.airflow_server import AirflowAPI, standalone

if TYPE_CHECKING:
    from pathlib import Path

DAGS = HERE / "handovers"
WAYS = {
    "group": "`SplashifyHandoverTaskGroup`",
    "loop": "`@task` with a requests.Session loop",
    "http_mapped": "`HttpOperator`, mapped",
}
SIZES, ROUNDS = (200, 2000), 2
MOST_MAPPED = 1024


def lines_of(way: str) -> int:
    """Count the lines of code that a user writes."""
    tree = ast.parse((DAGS / f"{way}.py").read_text())
    docstring = tree.body[0]
    lines = {line for node in ast.walk(tree) if hasattr(node, "lineno") for line in (node.lineno, node.end_lineno)}
    return len({line for line in lines if line and line > int(docstring.end_lineno or 0)})


def measure(airflow: AirflowAPI, leader: int, url: str, database: Path, way: str, size: int) -> dict[str, Any]:
    """Run a hand-over of so many conversations. Give its seconds, Airflow's CPU, and the requests."""
    now = datetime.now(timezone.utc)
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        connection.execute("DELETE FROM conversations")
        connection.execute("DELETE FROM roster")
        connection.executemany(
            "INSERT INTO conversations VALUES (?, 'zoe@example.com')", [(f"+{number(i)}",) for i in range(size)]
        )
        times = [(now + timedelta(hours=hours)).isoformat() for hours in (-12, 12)]
        connection.execute("INSERT INTO roster VALUES (?, ?, ?)", (AGENT, *times))
    requests, cpu = requests_of(url), cpu_of(leader)
    ended = airflow_runs.run(airflow, way)
    with closing(sqlite3.connect(database)) as connection:
        (written,) = connection.execute("SELECT COUNT(*) FROM conversations WHERE agent_email = ?", (AGENT,)).fetchone()
    return {
        "state": ended.dag_run["state"],
        "seconds": ended.seconds,
        "cpu": cpu_of(leader) - cpu,
        "requests": requests_of(url) - requests,
        "written": written,
    }


def requests_of(url: str) -> int:
    """Ask the sandbox how many requests it has had."""
    with urllib.request.urlopen(f"{url}/sandbox/inboxes", timeout=30) as answer:
        return int(json.load(answer)["requests"]["total"])


def cpu_of(leader: int) -> float:
    """Add up the CPU seconds of a session: Airflow's components, and the tasks that they have waited for."""
    total = 0.0
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader:
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        except (OSError, psutil.Error):
            continue
    return total


def part_6(folder: Path) -> str:
    """Measure whole hand-overs."""
    database = folder / "support.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE roster (agent_email, starts_at, ends_at)")
        connection.execute("CREATE TABLE conversations (user_phone_number PRIMARY KEY, agent_email)")
    rows = []
    with sandbox(folder, max(SIZES)) as url:
        ours = {"conn_type": "splashify", "password": KEY, "host": f"{url}/api/v1"}
        connections = {
            "splashify_default": {**ours, "extra": {"requests_per_minute": 10**5}},
            "http_api": {"conn_type": "http", "host": url, "password": KEY},
            "support_db": {"conn_type": "sqlite", "host": str(database)},
        }
        with standalone(folder, DAGS, {"AIRFLOW__CORE__PARALLELISM": "4"}, **connections) as airflow:
            leader = next(
                os.getsid(process.pid)
                for process in psutil.process_iter()
                if "standalone" in " ".join(process.cmdline()) and os.getsid(process.pid) == process.pid
            )
            measure(airflow, leader, url, database, "loop", 10)  # the first run of all pays for others
            for size in SIZES:
                taken: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
                for round_number in range(ROUNDS):
                    for way in WAYS:
                        if way == "http_mapped" and (size > MOST_MAPPED or round_number):
                            continue
                        taken[way].append(measure(airflow, leader, url, database, way, size))
                rows += [row(way, size, runs) for way, runs in taken.items()]
    heads = ["way", "conversations", "run", "run time", "CPU of all of Airflow", "requests", "written", "lines of code"]
    return (
        "## 6. A whole hand-over: roster and conversations from SQL, assigned, written back\n\n"
        + table(heads, rows)
        + "\n\nThe group also chooses agents so that as few conversations move as can be, and gives those of a refused "
        "agent to the next in line; the others assign by round robin. Its half a dozen tasks are what Airflow "
        "schedules one after the other.\n"
    )


def row(way: str, size: int, runs: list[dict[str, Any]]) -> list[object]:
    """Write a way's row."""
    if not runs:
        text = f"Airflow maps at most {MOST_MAPPED:,} tasks"
        return [WAYS[way], f"{size:,}", text, "", "", "", "", lines_of(way)]
    seconds, cpu = (median([run[what] for run in runs]) for what in ("seconds", "cpu"))
    told = [", ".join(sorted({str(run[what]) for run in runs})) for what in ("requests", "written")]
    states = ", ".join(sorted({run["state"] for run in runs}))
    return [WAYS[way], f"{size:,}", states, f"{seconds:.0f} s", f"{cpu:.0f} s", *told, lines_of(way)]
