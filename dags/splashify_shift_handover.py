"""Hand open conversations over at every shift change.

At 06:00, 14:00 and 22:00 in Berlin this DAG reads the roster and the open conversations from a SQL
database, works out who is on duty, assigns each conversation whose agent is not (or holds far more than a fair share)
to somebody who is, and writes the new agent back. Everybody else's conversations stay where they are.

**Needs** the Airflow connections ``splashify_default`` and ``support_db`` (any database with an Airflow SQL
hook, such as SQLite or PostgreSQL) with two tables::

    roster         agent_email, starts_at, ends_at            -- one row a shift; times with their UTC offset
    conversations  user_phone_number, agent_email, status     -- agent_email: who holds it; status: open, ...

**Look first:** trigger it with ``dry_run``, and the log of the task ``plan`` shows who would get whom and why. It shows
the same before every other run, which then does what the plan says, also when tasks are retried or cleared.

**A pool** keeps this DAG from taking every worker slot: ``airflow pools set splashify 4 "Splashify API"``,
then ``pool="splashify"`` in ``SplashifyAssignOperator.partial(...)``.

**The table is taken for the truth:** whatever fills it (the vendor's webhooks, your CRM) also has to close what
Splashify has resolved. Such conversations are skipped here.

**Safe to repeat.** The same roster and conversations give the same plan, and assigning to the same agent
again changes nothing, so every task may be retried and cleared. A run older than a shift skips instead of
moving today's conversations to yesterday's agents.

**Size.** One mapped task a conversation: Airflow allows 1,024 in one run (``[core] max_map_length``).
"""

from __future__ import annotations

import logging
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import AirflowFailException, BaseHook, Param, dag, task

from splashify_provider.operators.splashify import (
    SplashifyAssignOperator,
    due_at,
    skip_if_too_old,
    successful_assignments,
)
from splashify_provider.routing import RoutingError, plan_assignments

log = logging.getLogger("airflow.task")

SHIFT = timedelta(hours=8)


@dag(
    schedule="0 6,14,22 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Berlin"),  # whose time zone is the schedule's
    catchup=False,
    max_active_runs=1,
    params={"dry_run": Param(False, type="boolean", description="Show the plan in the log, and stop")},
    default_args={
        "retries": 2,
        "retry_delay": timedelta(seconds=20),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=15),
    },
    tags=["splashify"],
    doc_md=__doc__,
)
def splashify_shift_handover() -> None:
    """Pull, plan, assign, write back."""

    @task(show_return_value_in_logs=False)  # phone numbers stay out of the log
    def pull() -> dict[str, list[dict[str, Any]]]:
        """Read the roster and the open conversations with their current agents."""
        database = BaseHook.get_hook("support_db")

        def rows(query: str, *columns: str) -> list[dict[str, Any]]:
            return [dict(zip(columns, map(_json_value, row), strict=True)) for row in database.get_records(query)]

        return {
            "shifts": rows("SELECT agent_email, starts_at, ends_at FROM roster", "agent_email", "start", "end"),
            "conversations": rows(
                "SELECT user_phone_number, agent_email FROM conversations WHERE status = 'open'",
                "user_phone_number",
                "agent_email",
            ),
        }

    @task(show_return_value_in_logs=False)
    def plan(pulled: dict[str, Any], **context: Any) -> list[dict[str, str]]:
        """Plan for the moment this run was due, however late it runs, and show the plan."""
        at = due_at(context)
        try:
            planned = plan_assignments(pulled["conversations"], pulled["shifts"], at=at)
        except RoutingError as error:  # the same rows would give the same error: no retries
            raise AirflowFailException(f"{error}\nCorrect the tables, then clear the task pull.") from None
        for line in planned.table().splitlines():
            log.info("%s", line)
        return [] if context["params"]["dry_run"] else planned.to_assignments()

    @task(trigger_rule="all_done")
    def write_back(pulled: dict[str, Any] | None, moves: list[dict[str, str]] | None, **context: Any) -> int:
        """Write the new agent of every conversation that was assigned, unless somebody has changed it since."""
        skip_if_too_old(context, 2 * SHIFT)  # assign may have been just in time
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
        max_run_age=SHIFT,
        retries=5,
        retry_delay=timedelta(minutes=1),
        map_index_template="{{ '…' ~ (task.user_phone_number | string)[-4:] }} → {{ task.agent_email }}",
    ).expand_kwargs(moves)
    assign >> write_back(pulled, moves) >> (end := handed_over())
    assign >> end


def _json_value(value: Any) -> Any:
    """Dates as text: PostgreSQL gives them as datetime, SQLite as it stored them."""
    return value.isoformat() if isinstance(value, datetime) else value


splashify_shift_handover()
