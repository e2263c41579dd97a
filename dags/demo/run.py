"""``make demo``: one shift hand-over, from an empty folder to a table of who holds what.

Starts the sandbox, fills a SQLite database with a team, and runs the DAG through Airflow twice, with an agent on the
roster who is disabled in Splashify: the next in line gets her conversations. Before the second run she is enabled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections import Counter
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import seed

from splashify_provider.sandbox.server import Sandbox
from splashify_provider.sandbox.workspace import DEFAULT_KEY

EXAMPLES = Path(__file__).resolve().parent.parent
HOME = EXAMPLES.parent / ".demo"
DATABASE = HOME / "support.db"
DAG_ID = "splashify_shift_handover"


def airflow_environment() -> dict[str, str]:
    """Give the environment of an Airflow that knows the example DAGs, and nothing else."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")},
        "AIRFLOW_HOME": str(HOME / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(HOME / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONWARNINGS": "ignore",  # Airflow's own; the tests look at ours
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def airflow(environment: dict[str, str], *command: str) -> None:
    """Run an Airflow command, and stop with what it said if it fails."""
    result = subprocess.run(
        ["airflow", *command],  # noqa: S607 - the one of this environment
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode:
        sys.exit(f"{result.stdout}\nairflow {command[0]} {command[1]} failed.")


def copy_armed_dags() -> None:
    """Copy the example DAGs as one who has seen a plan would: with dry_run set to False."""
    (HOME / "dags").mkdir()
    for path in EXAMPLES.glob("*.py"):
        source = path.read_text()
        armed = source.replace('"dry_run": Param(True', '"dry_run": Param(False')
        if armed == source:
            sys.exit(f"{path.name} has no dry_run to set to False.")
        (HOME / "dags" / path.name).write_text(armed)


def prepare(sandbox: Sandbox, team: seed.Team, **others: dict[str, object]) -> dict[str, str]:
    """Make DAGs, the team's database, and an Airflow with its connections. Return Airflow's environment."""
    environment = airflow_environment()
    copy_armed_dags()
    seed.write_database(DATABASE, team)
    print(f"Sandbox (a local Splashify) on {sandbox.url}, roster and conversations in .demo/{DATABASE.name}")
    print("Preparing Airflow's SQLite database ...", flush=True)
    airflow(environment, "db", "migrate")
    connections = {
        "splashify_default": {"conn_type": "splashify", "password": DEFAULT_KEY, "host": sandbox.base_url},
        "support_db": {"conn_type": "sqlite", "host": str(DATABASE)},
        **others,
    }
    for name, connection in connections.items():
        airflow(environment, "connections", "add", name, "--conn-json", json.dumps(connection))
    return environment


def run_dag(environment: dict[str, str], at: datetime, log: Path) -> float:
    """Run the DAG once in this moment, and return how many seconds that took."""
    started = time.monotonic()
    with log.open("w") as output:
        process = subprocess.run(
            ["airflow", "dags", "test", DAG_ID, at.isoformat()],  # noqa: S607 - the one of this environment
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if "Marking run" not in log.read_text():
        sys.exit(f"Airflow could not run the DAG (exit code {process.returncode}); see {log}")
    return time.monotonic() - started


def holders(sandbox: Sandbox) -> Counter[str]:
    """Count each agent's open conversations in Splashify."""
    chats = sandbox.workspace.conversations.values()
    return Counter(chat.agent_email or "(unassigned)" for chat in chats if chat.open)


def report(sandbox: Sandbox, before: Counter[str]) -> None:
    """Print who held how many before and after, and what became of each request."""
    after = holders(sandbox)
    names = {agent.email: agent for agent in sandbox.workspace.agents.values()}
    print(f"\n    {'agent':<24} {'before':>7} {'after':>7}")
    for email in ["(unassigned)", *sorted(names, key=lambda email: (-after[email], email))]:
        note = "" if email not in names or names[email].active else "   disabled in Splashify"
        change = after[email] - before[email]
        print(f"    {email:<24} {before[email]:>7} {after[email]:>7} {f'{change:+d}' if change else '':>6}{note}")
    outcomes = Counter(
        "assigned"
        if event["accepted"]
        else f"{event['message']}" + (f": {event['to']}" if event["message"] == "Agent inactive" else "")
        for event in sandbox.workspace.events
    )
    meaning = {
        "assigned": "moved to somebody on duty, and written back to the database",
        "Conversation not found": "skipped: resolved in Splashify since the table was written",
        "Too many requests": "held back by the rate limit, then sent again",
    }
    print()
    for outcome, count in outcomes.most_common():
        said = meaning.get(outcome, "refused: the next in line got the conversation")
        print(f"    {count:>4}  {outcome} - {said}")


def hand_over(sandbox: Sandbox, environment: dict[str, str], at: datetime, log: Path) -> None:
    """Run the DAG, and print what it changed and what its summary says."""
    before = holders(sandbox)
    sandbox.workspace.events.clear()
    seconds = run_dag(environment, at, log)
    report(sandbox, before)
    print(f"\n    {seconds:.0f} s. The log of the task summary says:\n")
    for line in log.read_text().splitlines():
        if told := re.search(r"\[(?:info|warning) *\] (.*?) +\[airflow\.task\S+SummaryOperator\]", line):
            print(textwrap.indent(textwrap.fill(told[1], 92), "      | "))


def main() -> None:
    """Run the demo."""
    shutil.rmtree(HOME, ignore_errors=True)
    (HOME / "airflow").mkdir(parents=True)
    now = datetime.now(timezone.utc)
    team = seed.make_team(now)
    with Sandbox(team.sandbox) as sandbox:
        environment = prepare(sandbox, team)
        on_duty = seed.shift_at(now)
        print(f"\n1. The {on_duty} shift takes over: {', '.join(map(seed.email, seed.TEAMS[on_duty]))}", flush=True)
        print(f"   ({team.disabled} is on the roster, and disabled in Splashify)", flush=True)
        hand_over(sandbox, environment, now, HOME / "run-1.log")
        print(f"\n2. Somebody enables {team.disabled} in Splashify, and the same DAG runs once more", flush=True)
        sandbox.workspace.set_agent(team.disabled)
        hand_over(sandbox, environment, now, HOME / "run-2.log")
        check_written_back(sandbox)
    print(
        "\nNothing is left running. Next:\n"
        "    make airflow                        the same in Airflow's UI, with the inbox page beside it\n"
        "    dags/splashify_shift_handover.py    the DAG, to copy and change\n"
        "    .demo/run-1.log                     what Airflow logged\n"
        "    .venvs/3.3/bin/python -m splashify_provider.sandbox\n"
        "                                        the local Splashify alone, for DAGs of your own"
    )


def check_written_back(sandbox: Sandbox) -> None:
    """Compare the table with Splashify, and say so."""
    with closing(sqlite3.connect(DATABASE)) as connection:
        rows = connection.execute("SELECT user_phone_number, agent_email FROM conversations").fetchall()
    table = {"".join(filter(str.isdigit, phone)): agent for phone, agent in rows}
    chats = [chat for chat in sandbox.workspace.conversations.values() if chat.open]
    different = sum(table[chat.user_phone_number] != chat.agent_email for chat in chats)
    if different:
        sys.exit(
            f"    {different} of {len(chats)} open conversations have another agent in the table than in Splashify!"
        )
    print(f"    The table agrees with Splashify on all {len(chats)} open conversations.")


if __name__ == "__main__":
    main()
