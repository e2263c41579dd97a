from __future__ import annotations

import json
import subprocess
import sys

import pytest

from splashify_provider.exceptions import (
    AgentInactiveError,
    AgentNotFoundError,
    AuthenticationError,
    BadRequestError,
    ConversationNotFoundError,
    InvalidAgentEmailError,
    InvalidPhoneNumberError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    SplashifyConnectionError,
    SplashifyError,
    UnexpectedResponseError,
)
from splashify_provider.hooks.splashify import SplashifyHook
from splashify_provider.rate_limit import LONGEST_WAIT
from splashify_provider.sandbox.server import SCENARIOS
from tests.conftest import ADA, BEN, CLOSED, DAN, PHONE, http, requests_to, shown_in_frames

KEY = "sk_live_sandbox"


class TestAssigning:
    def test_an_assigned_conversation_changes_hands(self, hook, sandbox):
        result = hook.assign("+1 (202) 555-0101", f" {BEN} ")
        assert (result.user_phone_number, result.agent_email) == (PHONE, BEN)
        assert result.message == "Chat Assigned Successfully"
        assert sandbox.workspace.conversations[PHONE].agent_email == BEN
        assert PHONE not in repr(result)

    def test_assigning_twice_is_assigning_once(self, hook, sandbox):
        assert hook.assign(PHONE, ADA) == hook.assign(PHONE, ADA)
        assert sandbox.workspace.conversations[PHONE].agent_email == ADA

    def test_the_request_is_what_the_vendor_documents(self, raw_server, connect):
        server = raw_server()
        connect(f"http://127.0.0.1:{server.port}/api/v1/", password=f" {KEY}\n")
        SplashifyHook().assign("+1 202 555 0101", ADA)
        head, body = server.requests[0].split(b"\r\n\r\n")
        lines = head.decode().splitlines()
        assert lines[0] == "POST /api/v1/public/assignment/ HTTP/1.1"
        assert f"Authorization: Basic {KEY}" in lines
        assert "Content-Type: application/json" in lines
        assert json.loads(body) == {"user_phone_number": PHONE, "agent_email": ADA}

    def test_a_national_number_is_read_in_the_default_region(self, sandbox, connect):
        connect(sandbox.base_url, extra={"default_region": "US"})
        assert SplashifyHook().assign("(202) 555-0101", ADA).user_phone_number == PHONE
        with pytest.raises(InvalidPhoneNumberError):
            SplashifyHook(default_region="FR").assign("(202) 555-0101", ADA)

    def test_a_process_that_was_forked_reads_its_own_answers(self, sandbox, connect):
        connect(sandbox.base_url)
        code = """
import os, sys
from collections import Counter
from splashify_provider.exceptions import ConversationNotFoundError
from splashify_provider.hooks.splashify import SplashifyHook

hook, right = SplashifyHook(requests_per_minute=100_000), Counter()
hook.assign("12025550101", "ada@example.com")
children = []
while len(children) < 3:
    child = os.fork()
    if not child:
        children = []
        break
    children.append(child)
for turn in range(15):
    phone, wanted = [("12025550101", True), ("12025550111", False)][turn % 2]
    try:
        right[bool(hook.assign(phone, "ada@example.com")) is wanted] += 1
    except ConversationNotFoundError:
        right[not wanted] += 1
assert right == {True: 15}, right
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
"""
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr

    def test_one_session_serves_all_calls(self, hook):
        session = hook.get_conn()
        hook.assign(PHONE, ADA)
        assert hook.get_conn() is session

    @pytest.mark.parametrize("phone", ["", None, "9876543210", "call me", "1-800-FLOWERS"])
    def test_an_unreadable_number_sends_nothing(self, hook, sandbox, phone):
        with pytest.raises(InvalidPhoneNumberError):
            hook.assign(phone, ADA)
        assert requests_to(sandbox) == 0

    @pytest.mark.parametrize(
        "email",
        [None, "", "  ", "\n", "None", "none", "null", "nan", "ada", "ada@", "@example.com", "ada@example",
         "a b@example.com", "ada@example.com,ben@example.com", "Ada <ada@example.com>", "ada@example.com\nX: 1",
         "ada@example..com", "ada@-example.com", "ada@example.com\u200b", 5, True, b"ada@example.com",
         ["ada@example.com"], "a" * 250 + "@example.com"],
    )  # fmt: skip
    def test_anything_but_an_address_sends_nothing(self, hook, sandbox, email):
        with pytest.raises(InvalidAgentEmailError, match="(?s)Nothing was sent.*release"):
            hook.assign(PHONE, email)
        assert requests_to(sandbox) == 0
        assert sandbox.workspace.conversations[PHONE].agent_email == ADA

    @pytest.mark.parametrize(
        ("phone", "agent", "scenario"),
        [
            (PHONE, None, None),
            (PHONE + "0" * 9, ADA, None),
            (PHONE, ADA, "server_error"),
            (PHONE, ADA, "reset"),
            (PHONE, ADA, "agent_inactive"),
        ],
    )
    def test_an_error_shows_neither_number_nor_key_in_its_frames(self, hook, sandbox, phone, agent, scenario):
        sandbox.workspace.set_scenario(PHONE, scenario)
        with pytest.raises(SplashifyError) as raised:
            hook.assign(phone, agent)
        assert shown_in_frames(raised.value) == []
        assert PHONE not in str(raised.value)

    def test_a_wrong_connection_shows_no_key_in_the_errors_frames(self, connect):
        connect("http://127.0.0.1:9", password=f"{KEY} {KEY}")
        for call in (lambda hook: hook.assign(PHONE, ADA), lambda hook: hook.get_conn()):
            with pytest.raises(SplashifyError) as raised:
                call(SplashifyHook())
            assert shown_in_frames(raised.value) == []


class TestReleasing:
    def test_a_released_conversation_has_no_agent(self, hook, sandbox):
        assert hook.release(PHONE).agent_email is None
        assert sandbox.workspace.conversations[PHONE].agent_email is None

    def test_an_unreadable_number_sends_nothing(self, hook, sandbox):
        with pytest.raises(InvalidPhoneNumberError):
            hook.release("9876543210")
        assert requests_to(sandbox) == 0


class TestAnswers:
    @pytest.mark.parametrize(
        ("scenario", "error"),
        [
            ("agent_not_found", AgentNotFoundError),
            ("agent_inactive", AgentInactiveError),
            ("conversation_not_found", ConversationNotFoundError),
            ("bad_request", BadRequestError),
            ("unauthorized", AuthenticationError),
            ("plan_required", PermissionDeniedError),
            ("account_suspended", PermissionDeniedError),
            ("ip_blocked", PermissionDeniedError),
            ("not_found", BadRequestError),
            ("rate_limited_long", RateLimitError),
            ("result_false", UnexpectedResponseError),
            ("no_result", UnexpectedResponseError),
            ("not_json", UnexpectedResponseError),
            ("empty", UnexpectedResponseError),
            ("truncated_json", UnexpectedResponseError),
            ("redirect_301", UnexpectedResponseError),
            ("redirect_302", UnexpectedResponseError),
            ("redirect_307", UnexpectedResponseError),
            ("redirect_308", UnexpectedResponseError),
        ],
    )
    def test_what_repeating_cannot_heal_is_sent_exactly_once(self, hook, sandbox, sleeps, scenario, error):
        sandbox.workspace.set_scenario(PHONE, scenario)
        with pytest.raises(error) as raised:
            hook.assign(PHONE, BEN)
        assert type(raised.value) is error
        assert requests_to(sandbox) == 1
        assert sleeps == []
        assert sandbox.workspace.conversations[PHONE].agent_email == ADA

    @pytest.mark.parametrize(
        ("scenario", "error"),
        [
            ("rate_limited", RateLimitError),
            ("rate_limited_header", RateLimitError),
            ("rate_limited_date", RateLimitError),
            ("rate_limited_body", RateLimitError),
            ("server_error", ServerError),
            ("bad_gateway", ServerError),
            ("unavailable", ServerError),
            ("gateway_timeout", ServerError),
            ("truncated", SplashifyConnectionError),
            ("reset", SplashifyConnectionError),
        ],
    )
    def test_what_repeating_may_heal_is_tried_three_times(self, hook, sandbox, sleeps, scenario, error):
        sandbox.workspace.set_scenario(PHONE, scenario)
        with pytest.raises(error):
            hook.assign(PHONE, BEN)
        assert requests_to(sandbox) == 3
        assert len(sleeps) >= 2  # a 429 makes the pacer wait too
        assert all(0 < seconds <= 10 for seconds in sleeps)

    @pytest.mark.parametrize("scenario", ["rate_limited:2", "server_error:1", "reset:2", "truncated:2"])
    def test_a_passing_trouble_is_healed(self, hook, sandbox, scenario):
        sandbox.workspace.set_scenario(PHONE, scenario)
        assert hook.assign(PHONE, BEN).agent_email == BEN

    def test_every_scenario_of_the_sandbox_is_tried_here(self):
        marks = [
            mark
            for name, test in vars(TestAnswers).items()
            if name.startswith("test_")
            for mark in getattr(test, "pytestmark", [])
        ]
        tried = {case[0] for mark in marks for case in mark.args[1] if isinstance(case, tuple)}
        assert set(SCENARIOS) - tried == {"hang"}  # in TestAccidents

    def test_the_real_answers_of_the_sandbox_map_to_their_errors(self, hook, connect, sandbox):
        with pytest.raises(AgentNotFoundError, match="nobody@example.com"):
            hook.assign(PHONE, "nobody@example.com")
        with pytest.raises(AgentInactiveError, match=DAN):
            hook.assign(PHONE, DAN)
        with pytest.raises(ConversationNotFoundError, match="…0111"):
            hook.assign(CLOSED, ADA)
        connect(sandbox.base_url, password="sk_live_old")
        with pytest.raises(AuthenticationError):
            SplashifyHook().assign(PHONE, ADA)

    def test_an_ip_to_allowlist_is_named(self, hook, sandbox):
        sandbox.workspace.set_scenario(PHONE, "ip_blocked")
        with pytest.raises(PermissionDeniedError, match="203.0.113.45") as raised:
            hook.assign(PHONE, BEN)
        assert raised.value.ip == "203.0.113.45"


class TestWaiting:
    @pytest.mark.parametrize(
        ("scenario", "least"), [("rate_limited_header", 2), ("rate_limited_body", 2), ("rate_limited_date", 1.5)]
    )
    def test_retry_after_is_the_least_and_jitter_comes_on_top(self, hook, sandbox, sleeps, scenario, least):
        sandbox.workspace.set_scenario(PHONE, scenario)
        with pytest.raises(RateLimitError) as raised:
            hook.assign(PHONE, BEN)
        assert all(seconds > least for seconds in sleeps)
        assert len(set(sleeps)) == 2
        assert raised.value.retry_after is not None

    @pytest.mark.parametrize(("scenario", "least"), [("rate_limited", 1), ("rate_limited_header", 2)])
    def test_a_429_holds_back_whatever_else_uses_the_key(self, sandbox, connect, sleeps, scenario, least):
        connect(sandbox.base_url, extra={"max_attempts": 1})
        sandbox.workspace.set_scenario(PHONE, scenario)
        with pytest.raises(RateLimitError):
            SplashifyHook(sleep=sleeps.append).assign(PHONE, BEN)
        assert sleeps == []
        SplashifyHook(sleep=sleeps.append).assign("12025550102", BEN)
        assert least - 0.2 < sum(sleeps) < least + 2

    def test_a_server_in_trouble_may_ask_for_a_wait_too(self, raw_server, connect, sleeps):
        connect(f"http://127.0.0.1:{raw_server(http('503 Service Unavailable', Retry_After='7')).port}")
        with pytest.raises(ServerError):
            SplashifyHook(sleep=sleeps.append).assign(PHONE, ADA)
        assert all(seconds > 7 for seconds in sleeps)

    def test_a_wait_that_is_too_long_to_hold_a_worker_is_left_to_airflow(self, hook, sandbox, sleeps):
        sandbox.workspace.set_scenario(PHONE, "rate_limited_long")
        with pytest.raises(RateLimitError) as raised:
            hook.assign(PHONE, BEN)
        assert raised.value.retry_after == 600 > LONGEST_WAIT
        assert sleeps == []

    @pytest.mark.parametrize("attempts", [1, 2, 5])
    def test_the_number_of_attempts_is_configurable(self, sandbox, connect, sleeps, attempts):
        connect(sandbox.base_url, extra={"max_attempts": 9})
        sandbox.workspace.set_scenario(PHONE, "server_error")
        with pytest.raises(ServerError):
            SplashifyHook(max_attempts=attempts, sleep=sleeps.append).assign(PHONE, BEN)
        assert requests_to(sandbox) == attempts
        assert len(sleeps) == attempts - 1

    def test_a_failed_attempt_is_logged_with_its_reason_and_without_number_or_key(self, hook, sandbox, log):
        sandbox.workspace.set_scenario(PHONE, "unavailable:1")
        hook.assign(PHONE, BEN)
        assert "Attempt 1 of 3 failed" in log.text
        assert "HTTP 503" in log.text
        assert "Assigned …0101 to ben@example.com" in log.text
        assert PHONE not in log.text
        assert KEY not in log.text
