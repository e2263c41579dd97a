"""Hand open conversations over at every shift change: at 06:00, 14:00 and 22:00 in Berlin.

**Needs** the connections ``splashify_default`` and ``support_db`` (any database with an Airflow SQL hook) with::

    roster         agent_email, starts_at, ends_at            -- one row a shift; times with their UTC offset
    conversations  user_phone_number, agent_email, status     -- agent_email: who holds it; status: open, ...

It shows its plan in the log of ``handover.plan`` and sends nothing, until ``dry_run`` is False below.
"""

from datetime import timedelta

import pendulum
from airflow.providers.common.compat.sdk import DAG, Param
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

from splashify_provider.sql import SqlWriteBack, fetch_rows_handler
from splashify_provider.task_groups.handover import SplashifyHandoverTaskGroup

SUPPORT_DB = {"conn_id": "support_db", "handler": fetch_rows_handler}

with DAG(
    "splashify_shift_handover",
    schedule="0 6,14,22 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Berlin"),  # whose time zone is the schedule's
    catchup=False,
    max_active_runs=1,
    params={"dry_run": Param(True, type="boolean", description="Show the plan in the log, and send nothing")},
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1)},
    tags=["splashify"],
    doc_md=__doc__,
) as dag:
    roster = SQLExecuteQueryOperator(
        task_id="roster", sql="SELECT agent_email, starts_at, ends_at FROM roster", **SUPPORT_DB
    )
    conversations = SQLExecuteQueryOperator(
        task_id="conversations",
        sql="SELECT user_phone_number, agent_email FROM conversations WHERE status = 'open'",
        **SUPPORT_DB,
    )
    SplashifyHandoverTaskGroup(
        shifts=roster.output,
        conversations=conversations.output,
        max_run_age=timedelta(hours=8),
        dry_run="{{ params.dry_run }}",
        write_back=SqlWriteBack("support_db", where="status = 'open'"),
    )
