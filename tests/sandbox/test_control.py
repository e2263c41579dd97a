"""What is changed while the sandbox runs, and what its page is told."""

from __future__ import annotations

import json
import sys
import threading

import pytest
import requests

from splashify_provider.exceptions import InvalidAgentEmailError
from splashify_provider.sandbox.server import Sandbox
from splashify_provider.sandbox.workspace import DEFAULT_KEY
from tests.conftest import ADA, BEN, CLOSED, DAN, PHONE, number

EVE = "eve@example.com"


@pytest.fixture
def assign(sandbox):
    def send(agent, phone=PHONE, **payload):
        return requests.post(
            f"{sandbox.base_url}/public/assignment/",
            headers={"Authorization": f"Basic {DEFAULT_KEY}"},
            json={"user_phone_number": phone, "agent_email": agent, **payload},
            timeout=5,
        ).json()["message"]

    return send


@pytest.fixture
def change(sandbox):
    def send(method, agent, payload=None):
        return requests.request(method, f"{sandbox.url}/sandbox/agents/{agent}", json=payload, timeout=5)

    return send


def inboxes(sandbox):
    return requests.get(f"{sandbox.url}/sandbox/inboxes", timeout=5).json()


def inbox(sandbox, agent):
    return next(inbox for inbox in inboxes(sandbox)["inboxes"] if inbox["agent"] == agent)


def test_an_agent_can_be_repaired(assign, change):
    assert assign(DAN) == "Agent inactive"
    assert change("PUT", DAN, {"active": True}).json() == {"email": DAN, "name": "Dan (disabled)", "active": True}
    assert assign(DAN) == "Chat Assigned Successfully"


def test_an_agent_can_be_added_disabled_and_removed(assign, change):
    assert assign(EVE) == "Agent not found"
    assert change("PUT", EVE, {"active": True}).ok
    assert assign(EVE) == "Chat Assigned Successfully"
    assert change("PUT", EVE, {"active": False}).ok
    assert assign(EVE) == "Agent inactive"
    assert change("DELETE", EVE).ok
    assert assign(EVE) == "Agent not found"
    assert change("DELETE", EVE).status_code == 404


@pytest.mark.parametrize("active", [True, False])
def test_conversations_stay_with_an_agent_who_is_disabled_or_removed(sandbox, change, active):
    assert change("PUT", ADA, {"active": False}).ok
    assert (inbox(sandbox, ADA)["status"], inbox(sandbox, ADA)["count"]) == ("disabled", 4)
    assert change("DELETE", ADA).ok
    assert (inbox(sandbox, ADA)["status"], inbox(sandbox, ADA)["count"]) == ("removed", 4)
    assert sandbox.workspace.conversations[PHONE].agent_email == ADA
    assert change("PUT", ADA, {"active": active}).ok
    assert inbox(sandbox, ADA)["count"] == 4


def test_an_agent_without_conversations_leaves_nothing_behind(sandbox, change):
    change("DELETE", DAN)
    assert DAN not in {inbox["agent"] for inbox in inboxes(sandbox)["inboxes"]}


@pytest.mark.parametrize(
    ("email", "payload"),
    [
        ("nobody", {"active": True}),
        ("x@example", {"active": True}),
        ("a%20b@example.com", {"active": True}),
        ("x" * 300 + "@example.com", {"active": True}),
        (EVE, {"active": "yes"}),
        (EVE, {}),
        (EVE, []),
    ],
)
def test_what_is_no_agent_is_refused(sandbox, change, email, payload):
    before = dict(sandbox.workspace.agents)
    answer = change("PUT", email, payload)
    assert answer.status_code == 400
    assert ("not an e-mail address" in answer.text) == (payload == {"active": True})
    assert sandbox.workspace.agents == before


def test_the_agents_of_clients_are_bounded(change, monkeypatch):
    monkeypatch.setattr("splashify_provider.sandbox.workspace._AGENTS_KEPT", 5)
    assert [change("PUT", f"agent{n}@example.com", {"active": True}).status_code for n in range(2)] == [200, 400]
    assert change("PUT", DAN, {"active": True}).ok
    assert change("DELETE", DAN).ok
    assert change("PUT", "agent1@example.com", {"active": True}).ok


def test_agents_change_in_the_middle_of_a_batch(sandbox, assign):
    workspace = sandbox.workspace
    assert assign(BEN) == "Chat Assigned Successfully"
    workspace.set_agent(BEN, active=False)
    assert assign(BEN) == "Agent inactive"
    workspace.set_agent(BEN)
    assert assign(BEN) == "Chat Assigned Successfully"
    workspace.remove_agent(BEN)
    assert assign(BEN) == "Agent not found"
    workspace.set_agent(BEN)
    assert assign(BEN) == "Chat Assigned Successfully"
    with pytest.raises(InvalidAgentEmailError, match="not an address"):
        workspace.set_agent("ben")
    with pytest.raises(KeyError):
        workspace.remove_agent(EVE)


def test_agents_change_from_another_thread_while_the_state_is_read(sandbox):
    workspace, stop = sandbox.workspace, threading.Event()
    for index in range(100):
        workspace.set_agent(f"agent{index}@example.com")

    def churn():
        while not stop.is_set():
            workspace.set_agent(EVE)
            workspace.remove_agent(EVE)

    thread, interval = threading.Thread(target=churn), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(50):
            assert len(workspace.as_json()["agents"]) >= 104
            assert len(workspace.inboxes()["inboxes"]) >= 105
            assert workspace.assign(PHONE, EVE)[1] in ("Chat Assigned Successfully", "Agent not found")
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()


def test_requests_are_counted_in_all_and_by_agent(sandbox, assign):
    for agent in (BEN, BEN, DAN, EVE, None, ["x"]):
        assign(agent)
    requests.post(f"{sandbox.base_url}/public/assignment/", json={"agent_email": BEN}, timeout=5)  # without a key
    counted = inboxes(sandbox)["requests"]
    assert counted["total"] == 7
    assert counted["by_agent"] == {BEN: 2, DAN: 1, EVE: 1, "": 2} == sandbox.workspace.requests_by_agent


def test_requests_over_the_limit_are_counted_for_their_agent():
    with Sandbox(rate_limit=1) as sandbox:
        headers, body = {"Authorization": f"Basic {DEFAULT_KEY}"}, {"user_phone_number": PHONE, "agent_email": BEN}
        for _ in range(3):
            requests.post(f"{sandbox.base_url}/public/assignment/", headers=headers, json=body, timeout=5)
        assert sandbox.workspace.answers == {200: 1, 429: 2}
        assert sandbox.workspace.requests_by_agent == {BEN: 3}


def test_the_count_by_agent_is_bounded(sandbox, assign, monkeypatch):
    monkeypatch.setattr("splashify_provider.sandbox.workspace._AGENTS_KEPT", 2)
    for agent in (BEN, "x" * 1000, EVE, BEN):
        assign(agent)
    assert sandbox.workspace.requests_by_agent == {BEN: 2, "x" * 200: 1}


def test_the_page_is_told_counts_and_who_came_last(sandbox, assign):
    told = inboxes(sandbox)
    assert (told["open"], told["closed"]) == (11, 1)
    assert [(inbox["agent"], inbox["status"], inbox["count"]) for inbox in told["inboxes"]] == [
        (None, "unassigned", 4),
        (ADA, "active", 4),
        (BEN, "active", 3),
        ("cleo@example.com", "active", 0),
        (DAN, "disabled", 0),
    ]
    assign(BEN)
    told = inbox(sandbox, BEN)
    assert told["name"] == "Ben"
    assert told["count"] == 4
    assert told["latest"][0]["customer"] == "Bruno Costa …0101"
    assert told["latest"][0]["moved_at"] > 0
    assert told["latest"][1] == {"customer": "Chen Wei …0102", "moved_at": None}


def test_the_page_is_told_no_whole_number(sandbox, assign):
    assign(BEN)
    assign(BEN, CLOSED)
    assign(BEN, "919876543210")
    text = json.dumps(inboxes(sandbox))
    assert {"0101", "0111", "3210"} == {event["customer"][-4:] for event in inboxes(sandbox)["events"]}
    assert not [phone for phone in [*sandbox.workspace.conversations, "919876543210"] if phone in text]


def test_what_the_page_is_told_does_not_grow_with_the_conversations(sandbox):
    agents = [f"agent{index}@example.com" for index in range(30)]
    seed = {
        "agents": [{"email": agent, "name": agent} for agent in agents],
        "conversations": [
            {"user_phone_number": number(index), "name": f"Customer {index}", "agent_email": agents[index % 30]}
            for index in range(5000)
        ],
    }
    with Sandbox(seed) as sandbox:
        for index in range(300):
            sandbox.workspace.record(200, "Chat Assigned Successfully", number(index), agents[0])
        answer = requests.get(f"{sandbox.url}/sandbox/inboxes", timeout=5)
        assert len(answer.content) < 100_000
        told = answer.json()
        assert told["open"] == sum(inbox["count"] for inbox in told["inboxes"]) == 5000
        assert answer.headers["Cache-Control"] == "no-store"
        change = requests.put(f"{sandbox.url}/sandbox/agents/{EVE}", json={"active": True}, timeout=5)
        assert len(change.content) < 1000
