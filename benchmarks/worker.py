"""One of several processes that share a key: waits for a moment, sends its part, prints when it began and ended."""

from __future__ import annotations

import json
import os
import sys
import time

from client import AGENT, KEY, number

way, url, start, count, moment, window, storage = sys.argv[1:8]
rows = [
    {"user_phone_number": "+" + number(index), "agent_email": AGENT}
    for index in range(int(start), int(start) + int(count))
]


def prepare():
    """Give what sends the rows, and returns how many were assigned."""
    if way == "assign_many":
        from splashify_provider import rate_limit
        from splashify_provider.hooks.splashify import SplashifyHook

        rate_limit.WINDOW = float(window)
        extra = {"requests_per_minute": 100, "rate_limit_storage": storage}
        os.environ["AIRFLOW_CONN_SPLASHIFY_DEFAULT"] = json.dumps(
            {"conn_type": "splashify", "password": KEY, "host": f"{url}/api/v1", "extra": extra}
        )
        hook = SplashifyHook()
        hook.get_conn()
        return lambda: sum(outcome.outcome == "assigned" for outcome in hook.assign_many(rows))

    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    session = requests.Session()
    session.headers["Authorization"] = f"Basic {KEY}"
    retry = Retry(5, backoff_factor=1, status_forcelist=[429, 500, 502, 503], allowed_methods=None)
    session.mount("http://", HTTPAdapter(max_retries=retry))

    def send() -> int:
        assigned = 0
        for row in rows:
            body = {"user_phone_number": row["user_phone_number"][1:], "agent_email": AGENT}
            try:
                response = session.post(f"{url}/api/v1/public/assignment/", json=body, timeout=30)
            except requests.RequestException:  # it has retried five times
                continue
            assigned += response.json().get("result") is True
        return assigned

    return send


send = prepare()
time.sleep(max(0.0, float(moment) - time.time()))
began = time.time()
done = send()
print(json.dumps({"began": began, "ended": time.time(), "assigned": done}))
