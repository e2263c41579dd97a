"""A page of another site, open in the developer's browser, neither reads nor changes anything."""

from __future__ import annotations

import pytest
import requests

from splashify_provider.sandbox.workspace import DEFAULT_KEY
from tests.conftest import ADA, BEN, DAN, PHONE

KEY = {"Authorization": f"Basic {DEFAULT_KEY}"}
ROUTES = [
    ("GET", "/sandbox/state", None),
    ("GET", "/sandbox/inboxes", None),
    ("PUT", f"/sandbox/agents/{DAN}", {"active": True}),
    ("DELETE", f"/sandbox/agents/{DAN}", None),
    ("PUT", f"/sandbox/scenarios/{PHONE}", {"scenario": "server_error"}),
    ("POST", "/api/v1/public/assignment/", {"user_phone_number": PHONE, "agent_email": BEN}),
]


@pytest.fixture
def ask(sandbox):
    def send(method, path, json=None, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return requests.request(method, sandbox.url + path, json=json, headers={**KEY, **headers}, timeout=5)

    return send


@pytest.fixture
def port(sandbox):
    return sandbox.url.rpartition(":")[2]


def is_as_before(sandbox):
    state = sandbox.workspace
    return (
        not state.agents[DAN].active and not state.scenarios and state.conversations[PHONE].agent_email == ADA
    ) and not state.answers


@pytest.mark.parametrize("route", [*ROUTES, ("GET", "/", None), ("GET", "/nothing", None)])
@pytest.mark.parametrize(
    "host", ["evil.example:{port}", "127.0.0.1.evil.example", "localhost.:{port}", "127.0.0.1:{port}@evil.example", ""]
)
def test_a_name_that_was_rebound_to_this_machine_is_refused(sandbox, ask, port, route, host):
    answer = ask(*route, Host=host.format(port=port))
    assert answer.status_code == 403
    assert "answers to 127.0.0.1, [::1], localhost only" in answer.json()["message"]
    assert is_as_before(sandbox)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost:{port}"},  # another site than 127.0.0.1, to a browser
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},  # another port
        {"Origin": "http://127.0.0.1:{port}", "Sec_Fetch_Site": "cross-site"},
    ],
)
def test_what_a_page_of_another_site_asks_for_is_refused(sandbox, ask, port, route, headers):
    answer = ask(*route, **{name: value.format(port=port) for name, value in headers.items()})
    assert answer.status_code == 403
    assert "a page of another site" in answer.json()["message"]
    assert is_as_before(sandbox)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
@pytest.mark.parametrize("route", ROUTES)
def test_its_own_page_may_do_everything_under_each_of_its_names(sandbox, ask, port, route, name):
    origin = f"http://{name}:{port}".lower()
    assert ask(*route, Host=f"{name}:{port}", Origin=origin, Sec_Fetch_Site="same-origin").ok
    sandbox.workspace.set_agent(DAN)
    assert ask(*route, Host=f"{name}:{port}", Sec_Fetch_Site="none").ok


def test_a_link_from_another_site_leads_to_the_page(ask):
    assert ask("GET", "/", Sec_Fetch_Site="cross-site").ok


def test_requests_without_a_key_do_not_push_events_out_of_the_log(sandbox, ask):
    assert ask(*ROUTES[-1]).ok
    for _ in range(130):
        assert ask("POST", "/api/v1/public/assignment/", {}, Authorization="Basic x").status_code == 401
        assert ask("POST", "/api/v1/public/assignment", {}).status_code == 200  # followed, after the 301
    events = sandbox.workspace.as_json()["events"]
    assert [event["status"] for event in events].count(200) == 1
    assert events[-1]["user_phone_number"] == PHONE
    assert len(events) == 21
    assert sandbox.workspace.answers == {200: 1, 401: 130, 301: 130}


def test_the_log_is_in_order_and_keeps_its_latest(sandbox, ask):
    for index in range(3):
        ask("POST", "/api/v1/public/assignment/", {}, Authorization="Basic x" if index == 1 else KEY["Authorization"])
    assert [event["status"] for event in sandbox.workspace.as_json()["events"]] == [400, 401, 400]


def test_what_clients_make_it_keep_is_bounded(sandbox, ask):
    for number in range(30):
        ask("POST", "/api/v1/public/assignment/", {}, Authorization=f"Basic sk_live_{number}")
    assert not sandbox.workspace.windows
    ask("POST", "/api/v1/public/assignment/", {"user_phone_number": "1" * 10_000, "agent_email": "x" * 10_000})
    event = sandbox.workspace.events[0]
    assert {len(event["user_phone_number"]), len(event["to"])} == {200}
    huge = {"user_phone_number": PHONE, "agent_email": BEN, "more": "x" * 300_000}
    assert ask("POST", "/api/v1/public/assignment/", huge).status_code == 413
    assert sandbox.workspace.conversations[PHONE].agent_email == ADA


def test_the_scenarios_of_clients_are_bounded(ask, monkeypatch):
    monkeypatch.setattr("splashify_provider.sandbox.workspace._SCENARIOS_KEPT", 2)

    def choose(subject, scenario="server_error"):
        return ask("PUT", f"/sandbox/scenarios/{subject}", {"scenario": scenario}).status_code

    assert [choose(1), choose(2), choose(2, "unavailable"), choose(3)] == [200, 200, 200, 400]
    assert [choose(2, None), choose("1" * 201), choose(3)] == [200, 400, 200]
    assert choose(3, "server_error:" + "9" * 7) == 400


def test_what_forwards_to_it_from_another_port_reaches_it(ask):
    assert ask(*ROUTES[-1], Host="127.0.0.1:1").ok
