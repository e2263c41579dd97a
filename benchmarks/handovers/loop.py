"""The same with a loop in a task: round robin, and every conversation moves that isn't with the one it falls on."""

from datetime import datetime, timezone

import requests
from airflow.providers.sqlite.hooks.sqlite import SqliteHook
from airflow.sdk import DAG, BaseHook, task

with DAG("loop", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)):

    @task
    def hand_over():
        """Do all of it."""
        database = SqliteHook("support_db")
        now = datetime.now(timezone.utc).isoformat()
        roster = database.get_records(
            "SELECT agent_email FROM roster WHERE starts_at <= ? AND ends_at > ? ORDER BY agent_email", (now, now)
        )
        api = BaseHook.get_connection("http_api")
        session = requests.Session()
        session.headers["Authorization"] = f"Basic {api.password}"
        chats = database.get_records("SELECT user_phone_number, agent_email FROM conversations ORDER BY 1")
        for index, (phone, holder) in enumerate(chats):
            agent = roster[index % len(roster)][0]
            if holder == agent:
                continue
            body = {"user_phone_number": phone.lstrip("+"), "agent_email": agent}
            response = session.post(f"{api.host}/api/v1/public/assignment/", json=body, timeout=30)
            response.raise_for_status()
            database.run(
                "UPDATE conversations SET agent_email = ? WHERE user_phone_number = ?", parameters=(agent, phone)
            )

    hand_over()
