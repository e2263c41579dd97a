"""One client sends so many assignments, in a process of its own, and prints what that took.

Everybody is given one request to warm up: connections are opened, settings read.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "sk_live_sandbox"
AGENT = "ada@example.com"
Row = dict[str, str]


def number(index: int) -> str:
    """Give the phone number of the sandbox's conversation with this index."""
    return f"1202{5550000 + index:07d}"


def payload(row: Row) -> Row:
    """Give the body that the API documents; the rows carry numbers as people write them."""
    return {"user_phone_number": row["user_phone_number"].lstrip("+"), "agent_email": row["agent_email"]}


def session_loop(url: str) -> Callable[[list[Row]], None]:
    """Send with one requests.Session: what most people write."""
    import requests

    session = requests.Session()
    session.headers["Authorization"] = f"Basic {KEY}"

    def send(rows: list[Row]) -> None:
        for row in rows:
            response = session.post(url, json=payload(row), timeout=30)
            response.raise_for_status()
            assert response.json()["result"] is True

    return send


def requests_post(url: str) -> Callable[[list[Row]], None]:
    """Send with requests.post, which opens a connection for each."""
    import requests

    def send(rows: list[Row]) -> None:
        for row in rows:
            response = requests.post(url, json=payload(row), headers={"Authorization": f"Basic {KEY}"}, timeout=30)
            response.raise_for_status()
            assert response.json()["result"] is True

    return send


def http_hook(url: str) -> Callable[[list[Row]], None]:
    """Send with Airflow's HttpHook."""
    from airflow.providers.http.hooks.http import HttpHook

    base, path = url.split("/api/")
    extra = {"Authorization": f"Basic {KEY}"}
    os.environ["AIRFLOW_CONN_BENCH_HTTP"] = json.dumps({"conn_type": "http", "host": base, "extra": extra})
    hook = HttpHook(method="POST", http_conn_id="bench_http")

    def send(rows: list[Row]) -> None:
        for row in rows:
            assert hook.run(f"/api/{path}", json=payload(row)).json()["result"] is True

    return send


def vendor_sdk(url: str) -> Callable[[list[Row]], None]:
    """Send with splashifypro, mended where it sends no key and leaves out the slash."""
    from splashifypro import ApiClient, Configuration
    from splashifypro.api import ConversationsApi

    client = ApiClient(Configuration(host=url.split("/public/")[0]))
    client.set_default_header("Authorization", f"Basic {KEY}")
    call = client.call_api
    client.call_api = lambda method, address, *rest, **named: call(method, address + "/", *rest, **named)
    api = ConversationsApi(client)

    def send(rows: list[Row]) -> None:
        for row in rows:
            assert api.public_assignment_post(payload(row))["result"] is True

    return send


def urllib3_pool(url: str) -> Callable[[list[Row]], None]:
    """Send with urllib3 alone."""
    import urllib3

    pool = urllib3.PoolManager()

    def send(rows: list[Row]) -> None:
        for row in rows:
            response = pool.request("POST", url, json=payload(row), headers={"Authorization": f"Basic {KEY}"})
            assert response.json()["result"] is True

    return send


def aiohttp_one(url: str) -> Callable[[list[Row]], None]:
    """Send with aiohttp, one after the other."""
    import aiohttp

    loop = asyncio.new_event_loop()

    async def send_all(rows: list[Row]) -> None:
        async with aiohttp.ClientSession(headers={"Authorization": f"Basic {KEY}"}) as session:
            for row in rows:
                async with session.post(url, json=payload(row)) as response:
                    assert (await response.json())["result"] is True

    return lambda rows: loop.run_until_complete(send_all(rows))


def assign_many(url: str, max_in_flight: int = 1) -> Callable[[list[Row]], None]:
    """Send with this package: checked, paced, typed."""
    from splashify_provider.hooks.splashify import SplashifyHook

    os.environ["AIRFLOW_CONN_SPLASHIFY_DEFAULT"] = json.dumps(
        {
            "conn_type": "splashify",
            "password": KEY,
            "host": url.split("/public/")[0],
            "extra": {"requests_per_minute": 100_000},
        }
    )
    hook = SplashifyHook()

    def send(rows: list[Row]) -> None:
        outcomes = Counter(outcome.outcome for outcome in hook.assign_many(rows, max_in_flight=max_in_flight))
        assert outcomes == {"assigned": len(rows)}, outcomes

    return send


CLIENTS = {
    "requests.Session loop": session_loop,
    "assign_many": assign_many,
    "assign_many, 16 in flight": lambda url: assign_many(url, 16),
    "requests.post": requests_post,
    "HttpHook.run loop": http_hook,
    "vendor SDK splashifypro": vendor_sdk,
    "urllib3": urllib3_pool,
    "aiohttp": aiohttp_one,
}


def main() -> None:
    """Send, and print seconds and CPU seconds as JSON."""
    name, url, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    send = CLIENTS[name](url)
    rows = [{"user_phone_number": "+" + number(index), "agent_email": AGENT} for index in range(count)]
    send(rows[:1])
    wall, cpu = time.perf_counter(), time.process_time()
    send(rows)
    print(json.dumps({"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    main()
