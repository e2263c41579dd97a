"""The same conversations in three ways. Each task returns the CPU seconds of its process, start-up included."""

from __future__ import annotations

import csv
import datetime
import json
import os
import time
from typing import Any

from airflow.providers.http.operators.http import HttpOperator
from airflow.sdk import DAG, task

from splashify_provider.operators.splashify import SplashifyBulkAssignOperator

PLAN = os.environ["BENCH_PLAN"]
URL = os.environ["BENCH_URL"]
HEADERS = {"Authorization": "Basic sk_live_sandbox"}
ONCE = {
    "schedule": None,
    "start_date": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
    "default_args": {
        "retries": int(os.environ.get("BENCH_RETRIES", "0")),
        "retry_delay": datetime.timedelta(minutes=1),
    },
}


class Bulk(SplashifyBulkAssignOperator):
    """The bulk operator, measured."""

    def execute(self, context: Any) -> Any:
        """Run, and return CPU seconds."""
        super().execute(context)
        return time.process_time()


class Http(HttpOperator):
    """Airflow's own, measured."""

    def execute(self, context: Any) -> Any:
        """Run, and return CPU seconds."""
        super().execute(context)
        return time.process_time()


def rows(count: int | None = None) -> list[dict[str, str]]:
    """Read the plan."""
    with open(PLAN) as stream:
        return list(csv.DictReader(stream))[:count]


with DAG("bulk", **ONCE):
    Bulk(task_id="assign", assignments=PLAN)

with DAG("loop", **ONCE):

    @task
    def assign() -> float:
        """Send with one requests.Session."""
        import requests

        session = requests.Session()
        session.headers.update(HEADERS)
        for row in rows():
            body = {**row, "user_phone_number": row["user_phone_number"][1:]}
            response = session.post(f"{URL}/api/v1/public/assignment/", json=body, timeout=30)
            response.raise_for_status()
        return time.process_time()

    assign()

with DAG("http_mapped", **ONCE):

    @task
    def bodies() -> list[str]:
        """Give each mapped task its body."""
        return [json.dumps({**row, "user_phone_number": row["user_phone_number"][1:]}) for row in rows(200)]

    Http.partial(
        task_id="assign",
        http_conn_id="bench_http",
        endpoint="/api/v1/public/assignment/",
        headers={**HEADERS, "Content-Type": "application/json"},
    ).expand(data=bodies())
