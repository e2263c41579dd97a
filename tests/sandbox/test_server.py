from __future__ import annotations

import time

import pytest
import requests

from splashify_provider.sandbox.server import SCENARIOS, Sandbox
from tests.conftest import ADA, BEN, CLOSED, DAN, PHONE

KEY = "sk_live_sandbox"


@pytest.fixture
def post(sandbox):
    def send(payload=None, key=KEY, path="/public/assignment/", **arguments):
        headers = {"Authorization": f"Basic {key}"} if key else {}
        arguments = {
            "json": {"user_phone_number": PHONE, "agent_email": BEN} if payload is None else payload,
            **arguments,
        }
        return requests.post(sandbox.base_url + path, headers=headers, allow_redirects=False, timeout=5, **arguments)

    return send


def test_an_assignment_is_answered_as_documented(post, sandbox):
    answer = post()
    assert answer.status_code == 200
    assert answer.json() == {"result": True, "message": "Chat Assigned Successfully"}
    assert sandbox.workspace.conversations[PHONE].agent_email == BEN


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"user_phone_number": PHONE, "agent_email": "nobody@example.com"}, "Agent not found"),
        ({"user_phone_number": PHONE, "agent_email": DAN}, "Agent inactive"),
        ({"user_phone_number": CLOSED, "agent_email": ADA}, "Conversation not found"),
        ({"user_phone_number": "12025550199", "agent_email": ADA}, "Conversation not found"),
        ({}, "user_phone_number is required"),
        ({"user_phone_number": "", "agent_email": ADA}, "user_phone_number is required"),
        ({"user_phone_number": "+12025550101", "agent_email": ADA}, "user_phone_number must contain digits only"),
        ({"user_phone_number": "1202 5550101", "agent_email": ADA}, "user_phone_number must contain digits only"),
        ({"user_phone_number": "١٢٠٢٥٥٥٠١٠١", "agent_email": ADA}, "user_phone_number must contain digits only"),
        ({"user_phone_number": 12025550101, "agent_email": ADA}, "user_phone_number must contain digits only"),
        ({"user_phone_number": PHONE, "agent_email": ["x"]}, "agent_email must be a string"),
        *[
            ({"user_phone_number": PHONE, "agent_email": value}, "agent_email must be a string")
            for value in (0, False, [], {})
        ],
        ([], "The body must be a JSON object"),
    ],
)
def test_a_refusal_gives_its_reason_and_changes_nothing(post, sandbox, payload, message):
    answer = post(payload)
    assert answer.status_code == 400
    assert answer.json() == {"result": False, "message": message}
    assert sandbox.workspace.conversations[PHONE].agent_email == ADA


@pytest.mark.parametrize("data", [b"", b"not json", b"\xff", b"[" * 100_000])
def test_a_body_that_is_not_json_is_refused(post, data):
    assert post(json=None, data=data).status_code == 400


def test_a_form_is_refused(post):
    assert post(json=None, data={"user_phone_number": PHONE, "agent_email": ADA}).status_code == 400


@pytest.mark.parametrize(
    "payload",
    [
        {"user_phone_number": PHONE},
        {"user_phone_number": PHONE, "agent_email": ""},
        {"user_phone_number": PHONE, "agent_email": None},
    ],
)
def test_an_empty_agent_releases(post, sandbox, payload):
    assert post(payload).json()["result"] is True
    assert sandbox.workspace.conversations[PHONE].agent_email is None


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        KEY,
        f"Bearer {KEY}",
        "Basic c2tfbGl2ZV9zYW5kYm94Og==",
        f"basic {KEY}",
        "Basic sk_live_other",
        "Basic sk_sandbox_nonsense",
    ],
)
def test_anything_but_the_raw_key_is_401(sandbox, authorization):
    headers = {"Authorization": authorization} if authorization else {}
    answer = requests.post(sandbox.base_url + "/public/assignment/", headers=headers, json={}, timeout=5)
    assert answer.status_code == 401
    assert answer.json()["result"] is False


def test_without_the_trailing_slash_it_is_a_301_that_an_ordinary_client_takes_for_success(post, sandbox):
    answer = post(path="/public/assignment")
    assert answer.status_code == 301
    assert answer.headers["Location"] == "/api/v1/public/assignment/"
    followed = requests.post(sandbox.base_url + "/public/assignment", json={}, timeout=5)
    assert followed.status_code == 200
    assert sandbox.workspace.conversations[PHONE].agent_email == ADA


def test_the_rate_limit_is_a_sliding_window_for_each_key():
    clock = [0.0]
    keys = frozenset({KEY, "sk_live_two"})
    with Sandbox(rate_limit=3, window=60.0, keys=keys, clock=lambda: clock[0]) as sandbox:

        def post(key):
            return requests.post(
                sandbox.base_url + "/public/assignment/", headers={"Authorization": f"Basic {key}"}, json={}, timeout=5
            )

        assert [post(KEY).status_code for _ in range(5)] == [400, 400, 400, 429, 429]
        assert post("sk_live_two").status_code == 400
        clock[0] = 30.5
        assert post(KEY).json()["Retry-After"] == 30  # those that were refused don't count
        clock[0] = 60.0
        assert post(KEY).status_code == 400


@pytest.mark.parametrize("scenario", sorted(set(SCENARIOS) - {"hang", "reset", "truncated"}))
def test_a_scenario_is_chosen_by_key(post, scenario):
    answer = post(key=f"sk_sandbox_{scenario}")
    assert answer.status_code != 200 or answer.text != '{"result": true, "message": "Chat Assigned Successfully"}'


@pytest.mark.parametrize("scenario", ["reset", "truncated"])
def test_a_connection_is_cut_off(post, scenario):
    with pytest.raises(requests.RequestException):
        post(key=f"sk_sandbox_{scenario}")


def test_a_request_that_hangs_is_recorded_when_the_client_gives_up(sandbox):
    headers, url = {"Authorization": "Basic sk_sandbox_hang"}, sandbox.base_url + "/public/assignment/"
    with pytest.raises(requests.Timeout):
        requests.post(url, headers=headers, json={}, timeout=0.1)
    deadline = time.monotonic() + 5
    while not sandbox.workspace.answers and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sandbox.workspace.answers == {0: 1}


def test_a_scenario_is_chosen_by_number_for_so_many_requests(post, sandbox):
    url = f"{sandbox.url}/sandbox/scenarios/{PHONE}"
    assert requests.put(url, json={"scenario": "bad_gateway:2"}, timeout=5).ok
    assert [post().status_code for _ in range(3)] == [502, 502, 200]
    requests.put(url, json={"scenario": "unavailable"}, timeout=5)
    assert [post().status_code for _ in range(3)] == [503, 503, 503]
    requests.put(url, json={"scenario": None}, timeout=5)
    assert post().status_code == 200


@pytest.mark.parametrize("scenario", ["nonsense", "server_error:x", "server_error:0", 5, ""])
def test_an_unknown_scenario_is_refused_with_those_there_are(sandbox, scenario):
    answer = requests.put(f"{sandbox.url}/sandbox/scenarios/{PHONE}", json={"scenario": scenario}, timeout=5)
    assert answer.status_code == 400
    assert "rate_limited_header" in answer.text
    for seeded in ("nonsense", "reset:-1", "reset:x"):
        with pytest.raises(ValueError, match="There is no scenario"):
            Sandbox({"scenarios": {PHONE: seeded}})
    with pytest.raises(ValueError, match="digits only"):
        Sandbox({"conversations": [{"user_phone_number": "+1 202"}]})


def test_a_seed_of_something_else_is_refused_with_what_it_may_have():
    with pytest.raises(ValueError, match="agents, conversations and scenarios, not customers"):
        Sandbox({"customers": []})


@pytest.mark.parametrize("path", ["agents/ada@example.com", f"scenarios/{PHONE}"])
@pytest.mark.parametrize("body", ["[]", "not json", "5"])
def test_a_bad_change_is_refused(sandbox, path, body):
    headers = {"Content-Type": "application/json"}
    assert requests.put(f"{sandbox.url}/sandbox/{path}", data=body, headers=headers, timeout=5).status_code == 400


def test_what_a_scenario_answers_is_not_counted_as_accepted(post, sandbox):
    post(key="sk_sandbox_result_false")
    assert sandbox.workspace.as_json()["requests"]["accepted"] == 0
    post()
    assert sandbox.workspace.as_json()["requests"]["accepted"] == 1


def test_the_state_is_json(post, sandbox):
    post()
    post({})
    state = requests.get(f"{sandbox.url}/sandbox/state", timeout=5).json()
    assert state["requests"] == {
        "total": 2,
        "accepted": 1,
        "by_status": {"200": 1, "400": 1},
        "by_agent": {BEN: 1, "": 1},
        "in_window": 2,
        "rate_limit": 100,
        "window": 60.0,
    }
    assert {"email": ADA, "name": "Ada", "active": True} in state["agents"]
    assert [chat["agent_email"] for chat in state["conversations"] if chat["user_phone_number"] == PHONE] == [BEN]
    assert (state["events"][1]["from"], state["events"][1]["to"]) == (ADA, BEN)


def test_latency_is_added():
    with Sandbox(latency=0.2) as sandbox:
        started = time.monotonic()
        requests.post(sandbox.base_url + "/public/assignment/", json={}, timeout=5)
        assert time.monotonic() - started >= 0.2


def test_the_page_allows_nothing_from_elsewhere_and_no_markup_from_data(sandbox):
    page = requests.get(sandbox.url, timeout=5)
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "NONCE" not in page.text
    nonce = policy.split("script-src 'nonce-")[1].split("'")[0]
    assert page.text.count(f'nonce="{nonce}"') == 2
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", 'src="', "@import"):
        assert sink not in page.text
    assert nonce not in requests.get(sandbox.url, timeout=5).text
