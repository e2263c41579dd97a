"""The operators in a DAG of every kind of use, run by Airflow itself."""

from __future__ import annotations

import re
import sqlite3

import pytest

from splashify_provider.retry_policy import DEFAULT_RETRY_POLICY
from tests.conftest import ADA, BEN, CLOSED, DAN, airflow_cli

pytestmark = pytest.mark.slow

DAG = f"""
import datetime

from airflow.providers.common.compat.sdk import DAG, task

from splashify_provider.operators.splashify import (
    SplashifyAssignOperator,
    SplashifyBulkAssignOperator,
    SplashifyReleaseOperator,
)

with DAG("uses", schedule=None, start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)) as dag:

    @task
    def owner():
        return "{BEN}"

    @task
    def batch():
        return [
            {{"user_phone_number": "+1 202 555 0103", "agent_email": "{BEN}"}},
            {{"user_phone_number": "+12025550109", "agent_email": "{BEN}"}},
            {{"user_phone_number": "+{CLOSED}", "agent_email": "{BEN}"}},
        ]

    @task
    def rows():
        return [
            {{"user_phone_number": "+1 202 555 0104", "agent_email": "{DAN}", "fallback_agents": ["{BEN}"]}},
            {{"user_phone_number": "+{CLOSED}", "agent_email": "{BEN}"}},
        ]

    SplashifyAssignOperator(
        task_id="classic",
        user_phone_number="+{{{{ params.phone }}}}",
        agent_email="{{{{ params.agent }}}}",
        params={{"phone": "12025550100", "agent": "{ADA}"}},
        max_run_age=datetime.timedelta(hours=8),
    )
    SplashifyAssignOperator(task_id="fed", user_phone_number="+12025550101", agent_email=owner())
    SplashifyAssignOperator.partial(
        task_id="mapped",
        on_conversation_not_found="skip",
        dry_run="{{{{ params.rehearse }}}}",
        params={{"rehearse": False}},
    ).expand_kwargs(rows())
    SplashifyReleaseOperator(task_id="release", user_phone_number="+12025550107")
    @task
    def chunks():
        return [
            {{"assignments": [{{"user_phone_number": "+12025550102", "agent_email": "{ADA}"}}], "plan_id": "p"}},
            {{"releases": ["+12025550108"], "plan_id": "p"}},
            {{"assignments": []}},
        ]

    SplashifyBulkAssignOperator(task_id="bulk", assignments=batch(), on_conversation_not_found="skip")
    SplashifyBulkAssignOperator(
        task_id="bulk_template", assignments="{{{{ ti.xcom_pull(task_ids='batch') | tojson }}}}", dry_run=True
    ).set_upstream(dag.get_task("batch"))
    SplashifyBulkAssignOperator.partial(task_id="bulk_mapped", dry_run="False").expand_kwargs(chunks())
    SplashifyAssignOperator(
        task_id="rehearsed", user_phone_number="+12025550110", agent_email="{BEN}", dry_run="{{{{ 1 == 1 }}}}"
    )
"""


def airflow_labels(home):
    """Give what Airflow's UI calls each mapped task instance."""
    with sqlite3.connect(home / "airflow.db") as database:
        rows = database.execute(
            "SELECT task_id, map_index, rendered_map_index FROM task_instance WHERE map_index >= 0"
        ).fetchall()
    return {(task, index): label for task, index, label in rows}


def test_classic_mapped_and_taskflow_uses_do_what_they_say(sandbox, tmp_path):
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "uses.py").write_text(DAG)
    connection = {"conn_type": "splashify", "password": "sk_live_sandbox", "host": sandbox.base_url}
    airflow = airflow_cli(tmp_path / "airflow", tmp_path / "dags", splashify_default=connection)
    before = {chat.user_phone_number: chat.agent_email for chat in sandbox.workspace.conversations.values()}
    result = airflow("dags", "test", "uses")
    log = result.stdout + result.stderr
    assert result.returncode == 0, log
    after = {chat.user_phone_number: chat.agent_email for chat in sandbox.workspace.conversations.values()}
    assert {phone: agent for phone, agent in after.items() if agent != before[phone]} == {
        "12025550100": ADA,
        "12025550101": BEN,
        "12025550102": ADA,
        "12025550103": BEN,
        "12025550104": BEN,
        "12025550107": None,
        "12025550108": None,
        "12025550109": BEN,
    }
    assert "…0111 has no open conversation" in log
    assert "would assign …0110" in log
    labels = airflow_labels(tmp_path / "airflow")
    assert labels == {
        ("mapped", 0): f"…0104 → {DAN}",
        ("mapped", 1): f"…0111 → {BEN}",
        ("bulk_mapped", 0): f"…0102 → {ADA}",
        ("bulk_mapped", 1): "…0108 released",
        ("bulk_mapped", 2): "nothing",
    }
    assert "3 rows: 3 to send, 0 done by an earlier try, 0 duplicates, 0 invalid" in log
    assert "Dry run, nothing was sent." in log
    assert re.search(r"  assigned +2\b(?s:.)*  conversation_not_found +1\b", log)


RETRIED = """
import datetime

from airflow.providers.common.compat.sdk import DAG, task

from splashify_provider.exceptions import AgentNotFoundError, RateLimitError
from splashify_provider.retry_policy import SplashifyRetryPolicy

with DAG("retried", schedule=None, start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)):
    policy = {"retry_policy": SplashifyRetryPolicy(), "retries": 2, "retry_delay": datetime.timedelta(hours=1)}

    @task(**policy)
    def limited(**context):
        if context["ti"].try_number == 1:
            raise RateLimitError(429, "Wait for two seconds.", 2.0)

    @task(**policy)
    def hopeless(**context):
        raise AgentNotFoundError(400, f"Agent not found in try {context['ti'].try_number}.")

    limited() >> hopeless()
"""


@pytest.mark.skipif(DEFAULT_RETRY_POLICY is None, reason="Airflow has retry policies since 3.3")
def test_airflow_waits_as_long_as_the_policy_says_and_logs_its_reason(tmp_path):
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "retried.py").write_text(RETRIED)
    result = airflow_cli(tmp_path / "airflow", tmp_path / "dags")("dags", "test", "retried")  # not for an hour
    log = result.stdout + result.stderr
    assert result.returncode == 1
    assert re.search(r"Retry policy decision.*Wait for two seconds", log)
    assert re.search(r"Retry policy decision.*Agent not found in try 1", log)
    assert "in try 2" not in log
