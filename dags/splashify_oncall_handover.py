"""Hand open conversations over to whoever is on call, every hour, as an on-call scheduler or a calendar says.

**Needs** the connections ``splashify_default`` and ``support_db`` (any database with an Airflow SQL hook) with::

    conversations  user_phone_number, agent_email, status     -- agent_email: who holds it; status: open, ...

and one of these, by the param ``roster``:

``api``
    ``oncall_api`` (type HTTP), an API in the shape of PagerDuty's ``GET /oncalls``. For PagerDuty itself: host
    ``https://api.pagerduty.com``, Extra ``{"Authorization": "Token token=YOUR_KEY"}``, and the ids of the schedules
    that count in ``SCHEDULES``.
``calendar``
    ``oncall_calendar`` (type HTTP), a calendar's private iCalendar address, as PagerDuty, Opsgenie and Google Calendar
    give it: ``https://`` and the server's name as the host, the rest as the password, so that it stays out of logs
    (needs ``pip install airflow-provider-splashify[ical]``).

It shows its plan in the log of ``handover.plan`` and sends nothing, until ``dry_run`` is False below.
"""

from datetime import timedelta

import pendulum
from airflow.providers.common.compat.sdk import DAG, AirflowException, BaseHook, Param, task
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.providers.http.hooks.http import HttpHook

from splashify_provider.operators.splashify import due_at
from splashify_provider.routing import shifts_from_ical
from splashify_provider.sql import SqlWriteBack, fetch_rows_handler
from splashify_provider.task_groups.handover import SplashifyHandoverTaskGroup

SCHEDULES: list[str] = []  # such as "PI7DH85"; all of them if empty
MOMENT = timedelta(minutes=1)


def from_api(at):
    """Ask who is on call, first in line, page by page."""
    query = {"include[]": "users", "since": at.isoformat(), "until": (at + MOMENT).isoformat(), "limit": 100}
    query |= {"schedule_ids[]": SCHEDULES, "offset": 0}
    shifts, more = [], True
    while more:
        page = HttpHook("GET", "oncall_api").run("oncalls", query, extra_options={"timeout": 30}).json()
        for entry in page["oncalls"]:
            if entry["escalation_level"] == 1:  # an empty start or end: on call whenever
                start, end = entry["start"] or query["since"], entry["end"] or query["until"]
                shifts.append({"agent_email": entry["user"].get("email"), "start": start, "end": end})
        query["offset"] += len(page["oncalls"])
        more = page["more"] and page["oncalls"]
    return shifts


def from_calendar(at):
    """Read who is on call from the calendar."""
    hook, path = HttpHook("GET", "oncall_calendar"), BaseHook.get_connection("oncall_calendar").password
    try:
        feed = hook.get_conn().get(hook.url_from_endpoint(path), timeout=30)
        feed.raise_for_status()
    except OSError as error:  # all of requests' are; their texts show the private address
        status = getattr(error.response, "status_code", "no answer")
        raise AirflowException(f"The calendar can't be fetched: {type(error).__name__} ({status}).") from None
    return [
        {"agent_email": shift.agent_email, "start": shift.start.isoformat(), "end": shift.end.isoformat()}
        for shift in shifts_from_ical(feed.content, at, at + MOMENT)
    ]


with DAG(
    "splashify_oncall_handover",
    schedule="@hourly",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    params={
        "roster": Param("api", enum=["api", "calendar"], description="Where to read who is on call"),
        "dry_run": Param(True, type="boolean", description="Show the plan in the log, and send nothing"),
    },
    default_args={"retries": 2, "retry_delay": timedelta(seconds=20)},
    tags=["splashify"],
    doc_md=__doc__,
) as dag:

    @task
    def roster(**context):
        """Read who is on call at the moment this run was due."""
        return (from_calendar if context["params"]["roster"] == "calendar" else from_api)(due_at(context))

    conversations = SQLExecuteQueryOperator(
        task_id="conversations",
        conn_id="support_db",
        sql="SELECT user_phone_number, agent_email FROM conversations WHERE status = 'open'",
        handler=fetch_rows_handler,
    )
    SplashifyHandoverTaskGroup(
        shifts=roster(),
        conversations=conversations.output,
        max_run_age=timedelta(hours=2),
        dry_run="{{ params.dry_run }}",
        write_back=SqlWriteBack("support_db", where="status = 'open'"),
    )
