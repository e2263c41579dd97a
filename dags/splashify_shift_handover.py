"""Hand open conversations over at every shift change.

At 06:00, 14:00 and 22:00 in Berlin this DAG reads the roster and the open conversations from a SQL
database, works out who is on duty, assigns each conversation whose agent is not to somebody who is, and writes
the new agent back. Conversations whose agent stays on duty are left alone.

**Needs** the Airflow connections ``splashify_default`` and ``support_db`` (any database with an Airflow SQL
hook, such as SQLite or PostgreSQL) with two tables::

    roster         agent_email, starts_at, ends_at            -- one row a shift; times with their UTC offset
    conversations  user_phone_number, agent_email, status     -- agent_email: who holds it; status: open, ...

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

import hashlib
from collections import Counter
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import AirflowFailException, BaseHook, dag, task

from splashify_provider.operators.splashify import SplashifyAssignOperator, skip_if_too_old

SHIFT = timedelta(hours=8)


def plan_handover(
    roster: list[dict[str, Any]], conversations: list[dict[str, Any]], at: datetime
) -> list[dict[str, Any]]:
    """Choose an agent for every conversation whose own is not on duty.

    :param roster: ``agent_email``, ``starts_at`` and ``ends_at`` (ISO 8601 with an offset) of each shift.
    :param conversations: ``user_phone_number`` and ``agent_email`` (None: unassigned) of each open one.
    :param at: The moment that counts. A shift is on duty from its start up to, not including, its end.
    :return: ``user_phone_number`` and the new ``agent_email`` of those that move.
    """
    on_duty = {}  # the roster's spelling by the address in small letters: people type it either way
    for shift in roster:
        try:
            agent = shift["agent_email"].strip()
            starts_at, ends_at = (
                datetime.fromisoformat(shift[key].replace("Z", "+00:00")) for key in ("starts_at", "ends_at")
            )
            if starts_at <= at < ends_at:
                on_duty[agent.lower()] = agent
        except (ValueError, TypeError, AttributeError):  # empty; no time at all; or one without an offset
            raise AirflowFailException(
                f"The shift {shift} needs an agent, and a start and an end in ISO 8601 with a UTC offset, such as "
                "2026-11-22T06:00:00+01:00. Correct the roster, then clear the pull task."
            ) from None
    if not on_duty:
        raise AirflowFailException(f"Nobody is on duty at {at}. Add a shift to the roster, then clear the pull task.")

    seen, moves = set(), []
    for row in conversations:
        digits, holder = _digits(row), row["agent_email"] or ""
        if digits in seen:
            raise AirflowFailException(
                f"Customer …{digits[-4:]} has two open conversations in the table. Close one, then clear the pull task."
            )
        seen.add(digits)
        if holder.strip().lower() not in on_duty:
            # Rendezvous hashing: who gets a conversation depends on nothing but who is on duty, so a rerun
            # after half the work was done still chooses the same agent.
            ranks = {hashlib.sha256(f"{digits} {agent}".encode()).hexdigest(): agent for agent in on_duty}
            moves.append({"user_phone_number": row["user_phone_number"], "agent_email": on_duty[ranks[max(ranks)]]})
    return moves


def _digits(row: dict[str, Any]) -> str:
    return "".join(filter(str.isdigit, str(row["user_phone_number"])))


@dag(
    schedule="0 6,14,22 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Berlin"),  # whose time zone is the schedule's
    catchup=False,
    max_active_runs=1,
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

        def rows(table: str, columns: list[str], where: str = "") -> list[dict[str, Any]]:
            records = database.get_records(f"SELECT {', '.join(columns)} FROM {table} {where}")  # noqa: S608
            return [dict(zip(columns, map(_json_value, record), strict=True)) for record in records]

        return {
            "roster": rows("roster", ["agent_email", "starts_at", "ends_at"]),
            "conversations": rows(
                "conversations",
                ["user_phone_number", "agent_email"],
                "WHERE status = 'open' ORDER BY user_phone_number",
            ),
        }

    @task(show_return_value_in_logs=False)
    def plan(pulled: dict[str, list[dict[str, Any]]], **context: Any) -> list[dict[str, Any]]:
        """Plan for the moment this run was due, however late it runs."""
        at = context.get("data_interval_end") or context["dag_run"].run_after
        moves = plan_handover(pulled["roster"], pulled["conversations"], at)
        print(f"{len(moves)} of {len(pulled['conversations'])} open conversations move at {at}.")
        return moves

    @task(trigger_rule="all_done")
    def write_back(pulled: dict[str, Any] | None, moves: list[dict[str, Any]] | None, **context: Any) -> int:
        """Write the new agent of every conversation that was assigned, unless somebody has changed it since."""
        skip_if_too_old(context, 2 * SHIFT)  # assign may have been just in time
        results = context["ti"].xcom_pull(task_ids="assign") or []
        assigned = Counter(
            (result["agent_email"], result["user_phone_number"][-4:])
            for result in ([results] if isinstance(results, dict) else results)
            if result and result["outcome"] == "assigned"
        )
        # Results show a number's last four digits. Where these are those of several moves to one agent, all of
        # them must have succeeded; else none is written, and the next run looks at them again.
        moved = [(move["agent_email"], _digits(move)[-4:], move["user_phone_number"]) for move in moves or []]
        planned = Counter((agent, last_four) for agent, last_four, _ in moved)
        holders = {row["user_phone_number"]: row["agent_email"] for row in (pulled or {}).get("conversations", [])}
        done = [
            (agent, phone, holders.get(phone) or "", agent)
            for agent, last_four, phone in moved
            if assigned[agent, last_four] >= planned[agent, last_four]
        ]
        database = BaseHook.get_hook("support_db")
        update = (
            "UPDATE conversations SET agent_email = ? "
            "WHERE user_phone_number = ? AND status = 'open' AND COALESCE(agent_email, '') IN (?, ?)"
        ).replace("?", database.placeholder)
        with closing(database.get_conn()) as connection, closing(connection.cursor()) as cursor:
            cursor.executemany(update, done)
            connection.commit()
        print(f"Wrote {len(done)} of {len(moves or [])} new agents back.")
        return len(done)

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
