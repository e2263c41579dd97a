"""A support desk for tests in a real Airflow: a table, Splashify with the same, and the DAG that hands over."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone

from splashify_provider.sandbox.server import Sandbox
from splashify_provider.sandbox.workspace import DEFAULT_KEY
from tests.conftest import number

NAMES = ("ada", "ben", "chitra", "gita")
GONE = "zoe@example.com"

DAG = """
from datetime import datetime, timedelta, timezone

from airflow.providers.common.compat.sdk import DAG, BaseNotifier, Param, TaskGroup, task
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

from splashify_provider.sql import SqlWriteBack, fetch_rows_handler
from splashify_provider.task_groups.handover import SplashifyHandoverTaskGroup


def query(name, sql):
    return SQLExecuteQueryOperator(task_id=name, sql=sql, conn_id="support_db", handler=fetch_rows_handler).output


def make(dag_id, schedule=None, dry_run=False, on_failure_callback=None, **arguments):
    start = datetime(2026, 1, 1, tzinfo=timezone.utc)
    params = {{"dry_run": Param(dry_run, type="boolean")}}
    defaults = {{"retries": 1, "retry_delay": timedelta(seconds=2)}}
    settings = {{"catchup": False, "params": params, "default_args": defaults, "is_paused_upon_creation": True}}
    with DAG(dag_id, schedule=schedule, start_date=start, on_failure_callback=on_failure_callback, **settings):
        hand_over(**arguments)


def hand_over(group_id="handover", **arguments):
    return SplashifyHandoverTaskGroup(
        group_id,
        shifts=query("roster_of_" + group_id, "SELECT agent_email, starts_at, ends_at FROM roster"),
        conversations=query("chats_of_" + group_id, "SELECT user_phone_number, agent_email FROM conversations"),
        max_run_age=timedelta(hours=8),
        dry_run="{{{{ params.dry_run }}}}",
        write_back=SqlWriteBack("support_db"),
        **arguments,
    )


@task
def after_assign():
    pass


with DAG("two_of_them", schedule=None, catchup=False, params={{"dry_run": False}}):
    with TaskGroup("outer"):
        one = hand_over("one", default_args={{"pool": "splashify", "retries": 0}})
    two = hand_over("two", prefix_group_id=False)
    one.summary >> [task for task in two.plan.upstream_list]
    one.assign >> after_assign()

make("no_retries", default_args={{"retries": 0}})
make("handover")
make("checked", check_agents=True)
make("scheduled", schedule="* * * * *", dry_run=True)
{more}
"""
WITH_APPROVAL = """
class Note(BaseNotifier):
    "Writes beside the table."

    template_fields = ("text",)

    def __init__(self, text):
        super().__init__()
        self.text = text

    def notify(self, context):
        with open("NOTES", "a") as notes:
            print(self.text, file=notes)


soon = {"response_timeout": timedelta(seconds=10)}
make("approved", approval={"notifiers": [Note("asked about {{ run_id }}")]})
make("timed_out", approval={**soon, "defaults": "Reject"})
make("unanswered", approval=soon, on_failure_callback=Note("failed: {{ dag.dag_id }}"))
"""


def email(name):
    return f"{name}@example.com"


class Desk:
    """The table and Splashify."""

    def __init__(self, folder, sandbox):
        self.path, self.sandbox = folder / "support.db", sandbox
        self.posted = []
        self.on_post = lambda: None
        assign = sandbox.workspace.assign

        def count(phone, agent):
            self.posted.append((phone, agent))
            self.on_post()
            return assign(phone, agent)

        sandbox.workspace.assign = count

    @property
    def connections(self):
        extra = {"requests_per_minute": 100_000}
        splashify = {"conn_type": "splashify", "password": DEFAULT_KEY, "host": self.sandbox.base_url, "extra": extra}
        return {"splashify_default": splashify, "support_db": {"conn_type": "sqlite", "host": str(self.path)}}

    def open(self, *holders):
        """Begin anew with these conversations, and everybody active and on duty."""
        self.sandbox.workspace.agents.clear()
        self.sandbox.workspace.conversations.clear()
        self.sandbox.workspace.load(
            {
                "agents": [{"email": email(name)} for name in (*NAMES, "zoe")],
                "conversations": [
                    {"user_phone_number": number(index), "agent_email": holder} for index, holder in enumerate(holders)
                ],
            }
        )
        self.posted.clear()
        self.on_post = lambda: None
        now = datetime.now(timezone.utc)
        times = [(now + timedelta(hours=hours)).isoformat() for hours in (-12, 12)]
        with self.database() as database:
            for table, columns in (
                ("roster", "agent_email TEXT, starts_at TEXT, ends_at TEXT"),
                ("conversations", "user_phone_number TEXT PRIMARY KEY, agent_email TEXT"),
            ):
                database.execute(f"DROP TABLE IF EXISTS {table}")
                database.execute(f"CREATE TABLE {table} ({columns})")
            database.executemany("INSERT INTO roster VALUES (?, ?, ?)", [(email(name), *times) for name in NAMES])
            rows = [(f"+{number(index)}", holder) for index, holder in enumerate(holders)]
            database.executemany("INSERT INTO conversations VALUES (?, ?)", rows)

    @contextmanager
    def database(self):
        with closing(sqlite3.connect(self.path, timeout=30)) as database, database:
            yield database

    def set_active(self, active, *names):
        for name in names:
            self.sandbox.workspace.agents[email(name)].active = active

    def holds(self):
        """Count what agents hold, in the table and in Splashify alike."""
        with self.database() as database:
            table = dict(database.execute("SELECT user_phone_number, agent_email FROM conversations"))
        chats = self.sandbox.workspace.conversations.values()
        assert table == {f"+{chat.user_phone_number}": chat.agent_email for chat in chats}
        return Counter(table.values())

    def is_handed_over(self, size, *without):
        holds = self.holds()
        return holds.total() == size and set(holds) <= {email(name) for name in NAMES if name not in without}


@contextmanager
def support_desk(folder, *, has_approval, **sandbox):
    """Start Splashify, and write the DAGs beside the table."""
    (folder / "dags").mkdir()
    more = WITH_APPROVAL.replace("NOTES", str(folder / "notes.txt")) if has_approval else ""
    (folder / "dags" / "handover.py").write_text(DAG.format(more=more))
    with Sandbox({}, rate_limit=10**9, **sandbox) as running:
        yield Desk(folder, running)
