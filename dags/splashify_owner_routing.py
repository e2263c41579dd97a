"""Route open conversations to the customers' own agents.

Every quarter of an hour this DAG reads from a SQL database whose customer each open conversation is, and assigns it to
the first of these who is on duty and not far above a fair share: the customer's owner in the CRM, the owner's backup,
somebody who speaks the customer's language, whoever holds it, anybody. At night, when nobody is on duty, everything
stays as it is until the morning.

**Needs** the Airflow connections ``splashify_default`` and ``support_db`` (any database with an Airflow SQL
hook, such as SQLite or PostgreSQL) with four tables::

    roster         agent_email, starts_at, ends_at            -- one row a shift; times with their UTC offset
    agents         agent_email, languages, capacity           -- 'en,pt-BR'; 2: takes twice as many as 1
    customers      user_phone_number, owner_email, backup_email, language
    conversations  user_phone_number, agent_email, status     -- agent_email: who holds it; status: open, ...

A customer's number is written the same in both of their tables. What the CRM doesn't know may be NULL, or the row
missing. ``dry_run`` shows the plan and stops. Every task may be retried and cleared: the same rows give the same plan,
and a run older than an hour skips. Airflow maps at most 1,024 tasks in one run (``[core] max_map_length``).
"""

from __future__ import annotations

import logging
from contextlib import closing
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import AirflowFailException, BaseHook, Param, dag, task

from splashify_provider.operators.splashify import (
    SplashifyAssignOperator,
    due_at,
    skip_if_too_old,
    successful_assignments,
)
from splashify_provider.routing import RoutingError, RoutingPolicy, plan_assignments

log = logging.getLogger("airflow.task")

MAX_RUN_AGE = timedelta(hours=1)
POLICY = RoutingPolicy(
    steps=("owner", "backup", "language", "current", "everyone"),
    nobody_on_duty="leave",  # or "fallback_agent", with fallback_agent="night@example.com"
)

ROSTER = """
    SELECT roster.agent_email, starts_at, ends_at, languages, capacity
    FROM roster LEFT JOIN agents ON LOWER(agents.agent_email) = LOWER(roster.agent_email)
"""
CONVERSATIONS = """
    SELECT conversations.user_phone_number, agent_email, owner_email, backup_email, language
    FROM conversations LEFT JOIN customers ON customers.user_phone_number = conversations.user_phone_number
    WHERE status = 'open'
"""


@dag(
    schedule="*/15 * * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    params={"dry_run": Param(False, type="boolean", description="Show the plan in the log, and stop")},
    default_args={"retries": 2, "retry_delay": timedelta(seconds=20), "retry_exponential_backoff": True},
    tags=["splashify"],
    doc_md=__doc__,
)
def splashify_owner_routing() -> None:
    """Pull, plan, assign, write back."""

    @task(show_return_value_in_logs=False)  # phone numbers stay out of the log
    def pull() -> dict[str, list[dict[str, Any]]]:
        """Read who works when, and whose customer each open conversation is."""
        database = BaseHook.get_hook("support_db")

        def rows(query: str, *columns: str) -> list[dict[str, Any]]:
            return [dict(zip(columns, map(_json_value, row), strict=True)) for row in database.get_records(query)]

        return {
            "shifts": rows(ROSTER, "agent_email", "start", "end", "languages", "capacity"),
            "conversations": rows(
                CONVERSATIONS, "user_phone_number", "agent_email", "owner_email", "backup_email", "language"
            ),
        }

    @task(show_return_value_in_logs=False)
    def plan(pulled: dict[str, Any], **context: Any) -> list[dict[str, str]]:
        """Plan for the moment this run was due, however late it runs, and show the plan."""
        at = due_at(context)
        try:
            planned = plan_assignments(pulled["conversations"], pulled["shifts"], at=at, policy=POLICY)
        except RoutingError as error:  # the same rows would give the same error: no retries
            raise AirflowFailException(f"{error}\nCorrect the tables, then clear the task pull.") from None
        for line in planned.table().splitlines():
            log.info("%s", line)
        return [] if context["params"]["dry_run"] else planned.to_assignments()

    @task(trigger_rule="all_done")
    def write_back(pulled: dict[str, Any] | None, moves: list[dict[str, str]] | None, **context: Any) -> int:
        """Write the new agent of every conversation that was assigned, unless somebody has changed it since."""
        skip_if_too_old(context, 2 * MAX_RUN_AGE)  # assign may have been just in time
        holders = {str(row["user_phone_number"]): row["agent_email"] for row in (pulled or {}).get("conversations", [])}
        done = [
            (move["agent_email"], phone, holders.get(phone) or "")
            for move in successful_assignments(moves or [], context["ti"].xcom_pull(task_ids="assign"))
            for phone in [move["user_phone_number"]]
        ]
        database = BaseHook.get_hook("support_db")
        update = (
            "UPDATE conversations SET agent_email = ? "
            "WHERE user_phone_number = ? AND status = 'open' AND COALESCE(agent_email, '') = ?"
        ).replace("?", database.placeholder)
        with closing(database.get_conn()) as connection, closing(connection.cursor()) as cursor:
            written = 0
            for values in done:
                cursor.execute(update, values)
                written += cursor.rowcount
            connection.commit()
        log.info("Wrote %d of %d new agents back; %d were planned.", written, len(done), len(moves or []))
        return written

    @task(trigger_rule="none_failed")
    def handed_over() -> None:
        """End green only if nothing failed: write_back runs in any case, so the run's state needs its own leaf."""

    pulled = pull()
    moves = plan(pulled)
    assign = SplashifyAssignOperator.partial(
        task_id="assign",
        on_conversation_not_found="skip",  # resolved in Splashify since the table was written
        max_run_age=MAX_RUN_AGE,
        retries=5,
        retry_delay=timedelta(minutes=1),
        map_index_template="{{ '…' ~ (task.user_phone_number | string)[-4:] }} → {{ task.agent_email }}",
    ).expand_kwargs(moves)
    assign >> write_back(pulled, moves) >> (end := handed_over())
    assign >> end


def _json_value(value: Any) -> Any:
    """Dates and decimals as text: PostgreSQL has types for them, SQLite gives what it stored."""
    return value.isoformat() if isinstance(value, datetime) else str(value) if isinstance(value, Decimal) else value


splashify_owner_routing()
