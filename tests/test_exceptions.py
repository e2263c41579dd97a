from __future__ import annotations

import json
import pickle
from datetime import datetime, timezone

import pytest
from requests.structures import CaseInsensitiveDict

from splashify_provider import exceptions
from splashify_provider.exceptions import (
    AgentInactiveError,
    AgentNotFoundError,
    AuthenticationError,
    BadRequestError,
    ConversationNotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    SplashifyAPIError,
    SplashifyConnectionError,
    SplashifyError,
    UnexpectedResponseError,
    error_from_response,
)

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
PHONE, ADA = "919876543210", "ada@example.com"


def read(status, body="", **headers):
    headers = CaseInsensitiveDict({name.replace("_", "-"): value for name, value in headers.items()})
    return error_from_response(status, headers, body, conn_id="crm", user_phone_number=PHONE, agent_email=ADA, now=NOW)


def test_a_200_with_result_true_is_the_only_success():
    assert read(200, '{"result": true, "message": "Chat Assigned Successfully"}') is None


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("Agent not found", AgentNotFoundError),
        ("AGENT NOT FOUND.", AgentNotFoundError),
        ("agent inactive", AgentInactiveError),
        ("Agent  Inactive", AgentInactiveError),
        ("conversation Not Found", ConversationNotFoundError),
        ("Conversation not found for this customer", ConversationNotFoundError),
        ("Something else", BadRequestError),
        ("", BadRequestError),
    ],
)
def test_a_400_is_told_by_its_message_in_any_case(message, error):
    found = read(400, f'{{"result": false, "message": "{message}"}}')
    assert type(found) is error
    assert found.status_code == 400
    assert not found.retryable


@pytest.mark.parametrize("body", ["", "<html>", "[1]", "null", '"text"', '{"message": 5}', "[" * 100_000])
def test_a_400_without_a_readable_reason_is_a_bad_request(body):
    assert type(read(400, body)) is BadRequestError


@pytest.mark.parametrize(
    ("status", "error", "retryable"),
    [
        (401, AuthenticationError, False),
        (402, BadRequestError, False),
        (403, PermissionDeniedError, False),
        (404, BadRequestError, False),
        (405, BadRequestError, False),
        (408, BadRequestError, False),
        (429, RateLimitError, True),
        (500, ServerError, True),
        (502, ServerError, True),
        (503, ServerError, True),
        (504, ServerError, True),
        (599, ServerError, True),
        (202, UnexpectedResponseError, False),
        (201, UnexpectedResponseError, False),
        (204, UnexpectedResponseError, False),
        (301, UnexpectedResponseError, False),
        (302, UnexpectedResponseError, False),
        (307, UnexpectedResponseError, False),
        (308, UnexpectedResponseError, False),
    ],
)
@pytest.mark.parametrize("body", ["", "<html><body>Bad Gateway</body></html>", '{"result": true}'])
def test_every_status_has_its_error_whatever_the_body(status, error, retryable, body):
    found = read(status, body)
    assert type(found) is error
    assert found.retryable is retryable
    assert found.status_code == status
    assert "<html" not in str(found)


@pytest.mark.parametrize(
    "body",
    [
        '{"result": false, "message": "Agent not found"}',
        '{"result": "true"}',
        '{"result": 1}',
        '{"message": "Chat Assigned Successfully"}',
        '{"success": true}',
        "",
        "<html>Welcome</html>",
        '{"result": tr',
        "true",
    ],
)
def test_a_200_without_result_true_is_no_success(body):
    assert type(read(200, body)) is UnexpectedResponseError


def test_an_ip_that_is_not_allowlisted_is_named():
    error = read(403, '{"success": false, "code": "ip_blocked", "ip": "203.0.113.45", "message": "Access denied"}')
    assert isinstance(error, PermissionDeniedError)
    assert error.ip == "203.0.113.45"
    assert "Add 203.0.113.45 to the allowlist" in str(error)


@pytest.mark.parametrize("ip", ["null", '"<script>"', "[]", '"sk_live_x"'])
def test_an_ip_that_is_none_is_not_repeated(ip):
    error = read(403, f'{{"success": false, "code": "ip_blocked", "ip": {ip}}}')
    assert error.ip is None
    assert "not named" in str(error)


def test_the_other_403s_name_plan_or_account():
    assert "Growth" in str(read(403, '{"success": false, "error": "plan_required"}'))
    assert "suspended" in str(read(403, '{"result": false, "message": "WhatsApp account suspended"}'))


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"Retry_After": "17"}, "", 17),
        ({"retry_after": " 17 "}, "", 17),
        ({"Retry_After": "1.5"}, "", 1.5),
        ({"Retry_After": "Sun, 22 Nov 2026 12:00:30 GMT"}, "", 30),
        ({"Retry_After": "Sun, 22 Nov 2026 11:00:00 GMT"}, "", 0),
        ({}, '{"Retry-After": 23}', 23),
        ({}, '{"retry_after": "23"}', 23),
        ({}, '{"retryAfter": 23.5}', 23.5),
        ({"Retry_After": "17"}, '{"Retry-After": 23}', 17),
        ({"Retry_After": "soon"}, '{"Retry-After": 23}', 23),
        ({"Retry_After": "1e300"}, "", 86_400),
        ({"Retry_After": "Sun, 22 Nov 2099 12:00:00 GMT"}, "", 86_400),
        ({"Retry_After": "-1"}, "", None),
        ({"Retry_After": "nan"}, "", None),
        ({"Retry_After": "Mon, 01 Jan 2024 00:00:00 +99999999999999999999"}, "", None),
        ({"Retry_After": "inf"}, "", None),
        ({}, '{"Retry-After": true}', None),
        ({}, '{"Retry-After": {"seconds": 1}}', None),
        ({}, "", None),
    ],
)
def test_retry_after_is_read_from_the_header_then_the_body(headers, body, seconds):
    assert read(429, body, **headers).retry_after == seconds
    assert read(503, body, **headers).retry_after == seconds
    assert len(str(read(429, body, **headers))) < 400


def test_a_redirect_names_where_it_leads_without_its_query():
    error = read(301, "", Location="https://example.com/public/assignment?key=sk_live_x")
    assert "https://example.com/public/assignment;" in str(error)
    assert "sk_live_x" not in str(error)


def test_texts_carry_the_last_four_digits_and_a_remedy():
    for status, message in [(400, "Agent not found"), (400, "Agent inactive"), (400, "x"), (429, ""), (500, "")]:
        text = str(read(status, f'{{"message": "{message} +91 98765 43210, {PHONE}"}}'))
        assert "…3210" in text
        assert PHONE not in text
        assert "98765" not in text
    assert "Add them under Settings → Team" in str(read(400, '{"message": "Agent not found"}'))


@pytest.mark.parametrize(
    "written",
    ["91/98765/43210", "91_98765_43210", "91–98765–43210", "91\u201198765\u201143210", "91·98765·43210", "98765,43210"],
)
def test_a_number_is_masked_however_it_is_separated(written):
    assert "98765" not in str(read(400, json.dumps({"message": f"bad number {written}"})))


def test_what_the_remedy_needs_is_not_masked():
    assert "203.0.113.45" in str(read(403, '{"result": false, "message": "Access denied - 203.0.113.45"}'))
    error = error_from_response(
        400, {}, '{"message": "Agent not found"}', conn_id="crm", agent_email="support.2024001@example.com"
    )
    assert "support.2024001@example.com" in str(error)


@pytest.mark.parametrize(
    "body", [r'{"message": "key sk\u005flive_a\/b is bad"}', '{"message": "key sk_live_a%2Fb is bad"}']
)
def test_a_key_in_the_answer_is_hidden_however_it_is_escaped(body):
    headers = {"Location": "https://example.com/login/sk_live_a/b"}
    for status in (302, 401):
        text = str(error_from_response(status, headers, body, conn_id="crm", api_key="sk_live_a/b"))
        assert "sk_live" not in text
        assert "***" in text


def test_a_short_key_does_not_damage_a_success():
    for key in ("t", "true", "result"):
        assert error_from_response(200, {}, '{"result": true}', conn_id="crm", api_key=key) is None


def test_an_empty_message_does_not_hide_the_error():
    assert type(read(400, '{"message": "", "error": "Agent not found"}')) is AgentNotFoundError


def test_a_release_is_not_called_an_assignment():
    error = error_from_response(500, {}, "", conn_id="crm", user_phone_number=PHONE, agent_email="")
    assert "released" in str(error)
    assert "assigned" not in str(error)


ALL = [value for value in vars(exceptions).values() if isinstance(value, type) and issubclass(value, SplashifyError)]


@pytest.mark.parametrize("error", ALL)
def test_every_error_survives_pickling(error):
    made = error(400, "What and how") if issubclass(error, SplashifyAPIError) else error("What and how")
    if isinstance(made, RateLimitError):
        made.retry_after = 5.0
    copy = pickle.loads(pickle.dumps(made))
    assert type(copy) is error
    assert str(copy) == "What and how"
    assert vars(copy) == vars(made)


def test_what_waiting_heals_is_retryable_and_nothing_else():
    assert {error for error in ALL if error.retryable} == {SplashifyConnectionError, RateLimitError, ServerError}


def test_bad_input_is_also_a_value_error():
    assert issubclass(exceptions.InvalidPhoneNumberError, ValueError)
    assert issubclass(exceptions.InvalidAgentEmailError, ValueError)


def test_the_tree_in_the_docstring_is_the_tree():
    for error in ALL:
        assert error.__name__ in exceptions.__doc__
