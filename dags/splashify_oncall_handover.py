"""Hand open conversations over to whoever is on call, as an on-call scheduler or a calendar says.

Every hour this DAG asks who is on call, reads the open conversations from a SQL database, assigns those whose agent is
not on call to somebody who is, and writes the new agent back. The param ``roster`` says whom to ask:

``api``
    An HTTP API in the shape of PagerDuty's ``GET /oncalls``. For PagerDuty itself, make the connection
    ``oncall_api`` (type HTTP) with host ``https://api.pagerduty.com`` and Extra
    ``{"Authorization": "Token token=YOUR_KEY", "Accept": "application/vnd.pagerduty+json;version=2"}``, and name the
    schedules that count in ``SCHEDULES`` below.
``calendar``
    A calendar's private address in iCalendar form, as PagerDuty, Opsgenie and Google Calendar give it (needs
    ``pip install airflow-provider-splashify[ical]``). In the connection ``oncall_calendar`` (type HTTP), the host is
    ``https://`` and the server's name; the rest of the address goes into the password, so that it stays out of logs.

**Needs** besides the connections ``splashify_default`` and ``support_db``, a database with the table::

    conversations  user_phone_number, agent_email, status     -- agent_email: who holds it; status: open, ...

The addresses of agents in the scheduler are those in Splashify. ``dry_run`` shows the plan and stops. Every task may be
retried and cleared: the same answers give the same plan, and a run older than two hours skips. Airflow maps at most
1,024 tasks in one run (``[core] max_map_length``).
"""

from __future__ import annotations

import logging
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, BaseHook, Param, dag, task
from airflow.providers.http.hooks.http import HttpHook

from splashify_provider.operators.splashify import (
    SplashifyAssignOperator,
    due_at,
    skip_if_too_old,
    successful_assignments,
)
from splashify_provider.routing import RoutingError, plan_assignments, shifts_from_ical

log = logging.getLogger("airflow.task")

MAX_RUN_AGE = timedelta(hours=2)
MOMENT = timedelta(minutes=1)
SCHEDULES: list[str] = []  # ids such as "PI7DH85": the schedules of those who answer customers; all of them if empty
CALENDAR_TIMEZONE = None  # such as "Europe/Berlin": where days begin, for all-day events of a calendar that doesn't say


def oncalls(at: datetime) -> list[dict[str, Any]]:
    """Ask the API who is on call, first in line, page by page."""
    api, shifts, offset = HttpHook(method="GET", http_conn_id="oncall_api"), [], 0
    query = {"include[]": "users", "since": at.isoformat(), "until": (at + MOMENT).isoformat(), "limit": 100}
    query["schedule_ids[]"] = SCHEDULES
    while True:
        page = api.run("oncalls", {**query, "offset": offset}, extra_options={"timeout": 30}).json()
        shifts += [
            {
                "agent_email": entry["user"].get("email"),
                "start": entry["start"] or query["since"],  # empty: on call whenever
                "end": entry["end"] or query["until"],
            }
            for entry in page["oncalls"]
            if entry["escalation_level"] == 1
        ]
        if not (page["more"] and page["oncalls"]):
            return shifts
        offset += len(page["oncalls"])


def calendar(at: datetime) -> list[dict[str, Any]]:
    """Read who is on call from the calendar."""
    import requests  # slow to load, and not needed to parse this file

    hook = HttpHook(method="GET", http_conn_id="oncall_calendar")
    path = BaseHook.get_connection("oncall_calendar").password
    try:
        session = hook.get_conn()
        feed = session.get(hook.url_from_endpoint(path), timeout=30)
        feed.raise_for_status()
    except requests.RequestException as error:  # its text, and what led to it, show the private address
        status = f" (HTTP {error.response.status_code})" if error.response is not None else ""
        raise AirflowException(f"The calendar can't be fetched: {type(error).__name__}{status}.") from None
    return [
        {"agent_email": shift.agent_email, "start": shift.start.isoformat(), "end": shift.end.isoformat()}
        for shift in shifts_from_ical(feed.content, at, at + MOMENT, timezone=CALENDAR_TIMEZONE)
    ]


@dag(
    schedule="@hourly",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    params={
        "roster": Param("api", enum=["api", "calendar"], description="Where to read who is on call"),
        "dry_run": Param(False, type="boolean", description="Show the plan in the log, and stop"),
    },
    default_args={"retries": 2, "retry_delay": timedelta(seconds=20), "retry_exponential_backoff": True},
    tags=["splashify"],
    doc_md=__doc__,
)
def splashify_oncall_handover() -> None:
    """Pull, plan, assign, write back."""

    @task
    def pull_roster(**context: Any) -> list[dict[str, Any]]:
        """Read who is on call at the moment this run was due."""
        at = due_at(context)
        try:
            return calendar(at) if context["params"]["roster"] == "calendar" else oncalls(at)
        except RoutingError as error:
            raise AirflowFailException(f"{error}\nCorrect the calendar, then clear this task.") from None

    @task(show_return_value_in_logs=False)  # phone numbers stay out of the log
    def pull_conversations() -> list[dict[str, Any]]:
        """Read the open conversations with their current agents."""
        query = "SELECT user_phone_number, agent_email FROM conversations WHERE status = 'open'"
        columns = ("user_phone_number", "agent_email")
        return [dict(zip(columns, row, strict=True)) for row in BaseHook.get_hook("support_db").get_records(query)]

    @task(show_return_value_in_logs=False)
    def plan(shifts: list[dict[str, Any]], conversations: list[dict[str, Any]], **context: Any) -> list[dict[str, str]]:
        """Plan for the moment this run was due, however late it runs, and show the plan."""
        at = due_at(context)
        try:
            planned = plan_assignments(conversations, shifts, at=at)
        except RoutingError as error:  # the same rows would give the same error: no retries
            raise AirflowFailException(f"{error}\nCorrect its source, then clear the task that pulls it.") from None
        for line in planned.table().splitlines():
            log.info("%s", line)
        return [] if context["params"]["dry_run"] else planned.to_assignments()

    @task(trigger_rule="all_done")
    def write_back(
        conversations: list[dict[str, Any]] | None, moves: list[dict[str, str]] | None, **context: Any
    ) -> int:
        """Write the new agent of every conversation that was assigned, unless somebody has changed it since."""
        skip_if_too_old(context, 2 * MAX_RUN_AGE)  # assign may have been just in time
        holders = {str(row["user_phone_number"]): row["agent_email"] for row in conversations or []}
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

    shifts, conversations = pull_roster(), pull_conversations()
    moves = plan(shifts, conversations)
    assign = SplashifyAssignOperator.partial(
        task_id="assign",
        on_conversation_not_found="skip",  # resolved in Splashify since the table was written
        max_run_age=MAX_RUN_AGE,
        retries=5,
        retry_delay=timedelta(minutes=1),
        map_index_template="{{ '…' ~ (task.user_phone_number | string)[-4:] }} → {{ task.agent_email }}",
    ).expand_kwargs(moves)
    assign >> write_back(conversations, moves) >> (end := handed_over())
    assign >> end


splashify_oncall_handover()
