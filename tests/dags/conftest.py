from __future__ import annotations

import importlib.util
import json
import re
import sqlite3
import sys
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import pytest

from splashify_provider.sandbox.server import Sandbox
from tests.conftest import airflow_cli

DAGS = Path(__file__).resolve().parents[2] / "dags"


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_dag():
    """Give an example's module and its DAG."""

    def load_example(name):
        module = load(DAGS / f"{name}.py")
        return module, module.dag

    return load_example


@pytest.fixture(scope="session")
def seed():
    return load(DAGS / "demo" / "seed.py")


@pytest.fixture
def team(seed):
    """The demo's team, with fewer conversations: two that stay and 25 that have to move."""
    made = seed.make_team(datetime.now(timezone.utc))
    few = [row for row in made.conversations if row[2] == "open"]
    return type(made)(made.roster, few[:2] + few[225:], made.sandbox, made.disabled, made.agents, made.customers)


def digits(phone):
    return "".join(filter(str.isdigit, phone))


class AirflowRun:
    """Runs example DAGs through Airflow itself against the sandbox."""

    def __init__(self, team, sandbox, folder, database, in_table, **connections):
        self.team, self.sandbox, self.in_table = team, sandbox, in_table
        self.now = datetime.now(timezone.utc)
        splashify = {"conn_type": "splashify", "password": "sk_live_sandbox", "host": sandbox.base_url}
        self._airflow = airflow_cli(
            folder / "airflow", DAGS, splashify_default=splashify, support_db=database, **connections
        )

    def __call__(self, dag_id, at=None, **params):
        result = self._airflow(
            "dags", "test", dag_id, (at or self.now).isoformat(), "--conf", json.dumps({"dry_run": False, **params})
        )
        # Airflow 3.0 prints what tasks and supervisor say to each other, whatever the log level.
        lines = (result.stdout + result.stderr).splitlines()
        log = "\n".join(line for line in lines if "[debug" not in line)
        for secret in ("sk_live_sandbox", "demo-oncall-key", "demo-feed-address"):
            assert secret not in log
        for phone, *_ in self.team.conversations:
            assert phone not in log
            assert digits(phone) not in log
        return result.returncode, log

    def in_splashify(self):
        held = {chat.user_phone_number: chat.agent_email for chat in self.sandbox.workspace.conversations.values()}
        return {digits(phone): held[digits(phone)] for phone, *_ in self.team.conversations}

    def state(self):
        return self.in_splashify(), self.in_table()


@pytest.fixture
def airflow_run(seed, team, tmp_path):
    """The DAGs on SQLite."""
    database = tmp_path / "support.db"
    seed.write_database(database, team)

    def in_table():
        with closing(sqlite3.connect(database)) as connection:
            rows = connection.execute("SELECT user_phone_number, agent_email FROM conversations").fetchall()
        return {digits(phone): agent for phone, agent in rows}

    oncall = load(DAGS / "demo" / "oncall.py")
    with Sandbox(team.sandbox) as sandbox, oncall.OnCall(team.roster) as scheduler:
        support_db = {"conn_type": "sqlite", "host": str(database)}
        run = AirflowRun(team, sandbox, tmp_path, support_db, in_table, **scheduler.connections)
        run.scheduler = scheduler
        yield run


@pytest.fixture
def airflow_on_postgres(seed, team, postgres, tmp_path):
    """The same, only with another connection."""
    import psycopg2

    schema = seed.SCHEMA.read_text()
    for column in ("starts_at", "ends_at"):
        schema = re.sub(rf"({column} +)TEXT", r"\1TIMESTAMPTZ", schema)
    options = {"host": postgres["host"], "port": postgres["port"], "user": "postgres", "dbname": "postgres"}
    with closing(psycopg2.connect(**options)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(schema)
        for table in ("roster", "conversations", "agents", "customers"):
            rows = getattr(team, table)
            cursor.executemany(f"INSERT INTO {table} VALUES ({', '.join(['%s'] * len(rows[0]))})", rows)

    def in_table():
        with closing(psycopg2.connect(**options)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT user_phone_number, agent_email FROM conversations")
            return {digits(phone): agent for phone, agent in cursor.fetchall()}

    with Sandbox(team.sandbox) as sandbox:
        yield AirflowRun(team, sandbox, tmp_path, postgres, in_table)
