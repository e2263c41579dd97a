"""The same with a mapped HttpOperator, and one task that writes back when all have succeeded."""

import json
from datetime import datetime, timezone

from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.sqlite.hooks.sqlite import SqliteHook
from airflow.sdk import DAG, task

with DAG("http_mapped", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)):

    @task
    def plan():
        """Give each mapped task its body."""
        database = SqliteHook("support_db")
        now = datetime.now(timezone.utc).isoformat()
        roster = database.get_records(
            "SELECT agent_email FROM roster WHERE starts_at <= ? AND ends_at > ? ORDER BY agent_email", (now, now)
        )
        chats = database.get_records("SELECT user_phone_number, agent_email FROM conversations ORDER BY 1")
        chosen = [(phone, holder, roster[index % len(roster)][0]) for index, (phone, holder) in enumerate(chats)]
        return [
            json.dumps({"user_phone_number": phone.lstrip("+"), "agent_email": agent})
            for phone, holder, agent in chosen
            if agent != holder
        ]

    @task
    def write_back(bodies):
        """Write the new agents back."""
        database = SqliteHook("support_db")
        for body in map(json.loads, bodies):
            database.run(
                "UPDATE conversations SET agent_email = ? WHERE user_phone_number = ?",
                parameters=(body["agent_email"], "+" + body["user_phone_number"]),
            )

    assign = HttpOperator.partial(
        task_id="assign",
        http_conn_id="http_api",
        endpoint="/api/v1/public/assignment/",
        headers={"Authorization": "Basic {{ conn.http_api.password }}", "Content-Type": "application/json"},
    ).expand(data=(bodies := plan()))
    assign >> write_back(bodies)
