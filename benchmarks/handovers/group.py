"""A complete hand-over with this package's task group."""

from datetime import datetime, timezone

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import DAG

from splashify_provider.sql import SqlWriteBack, fetch_rows_handler
from splashify_provider.task_groups.handover import SplashifyHandoverTaskGroup

SUPPORT_DB = {"conn_id": "support_db", "handler": fetch_rows_handler}

with DAG("group", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)):
    SplashifyHandoverTaskGroup(
        shifts=SQLExecuteQueryOperator(task_id="roster", sql="SELECT * FROM roster", **SUPPORT_DB).output,
        conversations=SQLExecuteQueryOperator(task_id="open", sql="SELECT * FROM conversations", **SUPPORT_DB).output,
        write_back=SqlWriteBack("support_db"),
    )
