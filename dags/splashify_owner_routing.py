"""Route open conversations to the customers' own agents, every quarter of an hour.

Each goes to the first of these who is on duty and not far above a fair share: the customer's owner in the CRM, the
owner's backup, somebody who speaks the customer's language, whoever holds it, anybody. At night, when nobody is on
duty, everything stays as it is.

**Needs** the connections ``splashify_default`` and ``support_db`` (any database with an Airflow SQL hook) with::

    roster         agent_email, starts_at, ends_at            -- one row a shift; times with their UTC offset
    agents         agent_email, languages, capacity           -- 'en,pt-BR'; 2: takes twice as many as 1
    customers      user_phone_number, owner_email, backup_email, language
    conversations  user_phone_number, agent_email, status     -- agent_email: who holds it; status: open, ...

It shows its plan in the log of ``handover.plan`` and sends nothing, until ``dry_run`` is False below.
"""

from datetime import timedelta

import pendulum
from airflow.providers.common.compat.sdk import DAG, Param
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

from splashify_provider.routing import RoutingPolicy
from splashify_provider.sql import SqlWriteBack, fetch_rows_handler
from splashify_provider.task_groups.handover import SplashifyHandoverTaskGroup

ROSTER = """
    SELECT roster.agent_email, starts_at, ends_at, languages, capacity
    FROM roster LEFT JOIN agents ON LOWER(agents.agent_email) = LOWER(roster.agent_email)
"""
CONVERSATIONS = """
    SELECT conversations.user_phone_number, agent_email, owner_email, backup_email, language
    FROM conversations LEFT JOIN customers ON customers.user_phone_number = conversations.user_phone_number
    WHERE status = 'open'
"""
POLICY = RoutingPolicy(
    steps=("owner", "backup", "language", "current", "everyone"),
    nobody_on_duty="leave",  # or "fallback_agent", with fallback_agent="night@example.com"
)
SUPPORT_DB = {"conn_id": "support_db", "handler": fetch_rows_handler}

with DAG(
    "splashify_owner_routing",
    schedule="*/15 * * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    params={"dry_run": Param(True, type="boolean", description="Show the plan in the log, and send nothing")},
    default_args={"retries": 2, "retry_delay": timedelta(seconds=20)},
    tags=["splashify"],
    doc_md=__doc__,
) as dag:
    SplashifyHandoverTaskGroup(
        shifts=SQLExecuteQueryOperator(task_id="roster", sql=ROSTER, **SUPPORT_DB).output,
        conversations=SQLExecuteQueryOperator(task_id="conversations", sql=CONVERSATIONS, **SUPPORT_DB).output,
        policy=POLICY,
        max_run_age=timedelta(hours=1),
        dry_run="{{ params.dry_run }}",
        write_back=SqlWriteBack("support_db", where="status = 'open'"),
    )
