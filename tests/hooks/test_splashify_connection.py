"""The hook's connection: when it is read, what is masked, and what testing it says."""

from __future__ import annotations

import inspect
import json
import re

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException

from splashify_provider.exceptions import RateLimitError, SplashifyConfigurationError
from splashify_provider.hooks.splashify import SplashifyHook
from tests.conftest import ADA, PHONE, SUCCESS, http, requests_to

KEY = "sk_live_sandbox"


class TestConnection:
    def test_nothing_is_read_before_it_is_needed(self):
        SplashifyHook("no_such_connection")

    def test_a_missing_connection_is_airflows_own_error(self):
        with pytest.raises(AirflowNotFoundException):
            SplashifyHook("no_such_connection").assign(PHONE, ADA)

    @pytest.mark.parametrize("error", [RecursionError("too deep"), ValueError("4300 digits")])
    def test_one_that_airflow_can_not_read_is_a_configuration_error(self, monkeypatch, error):
        def get_connection(*_):  # as Airflow 2 does for some extras
            raise error

        monkeypatch.setattr(SplashifyHook, "get_connection", get_connection)
        with pytest.raises(SplashifyConfigurationError, match="can't be read"):
            SplashifyHook().assign(PHONE, ADA)

    def test_the_key_is_masked_in_airflows_logs(self, hook, monkeypatch):
        masked = []
        monkeypatch.setattr("splashify_provider.hooks.splashify.mask_secret", masked.append)
        hook.assign(PHONE, ADA)
        assert masked == [KEY]

    def test_so_is_the_password_of_the_rate_limits_storage(self, sandbox, connect, monkeypatch):
        masked = []
        monkeypatch.setattr("splashify_provider.hooks.splashify.mask_secret", masked.append)
        connect(sandbox.base_url, extra={"rate_limit_storage": "redis://:pa55word@127.0.0.1:1/0"})
        SplashifyHook().get_conn()
        assert masked == [KEY, "pa55word"]

    def test_the_mask_is_airflows(self, hook):
        try:
            from airflow.sdk.log import redact
        except ImportError:
            try:
                from airflow.sdk.execution_time.secrets_masker import redact
            except ImportError:
                from airflow.utils.log.secrets_masker import redact
        hook.get_conn()
        assert KEY not in str(redact(f"Authorization: Basic {KEY}"))

    def test_proving_it_goes_through_the_door_but_waits_for_nobody(self, sandbox, connect, sleeps):
        connect(sandbox.base_url, extra={"requests_per_minute": 2})
        hook = SplashifyHook(sleep=sleeps.append)
        assert [hook.test_connection()[0] for _ in range(4)] == [True] * 4
        hook.assign(PHONE, ADA)
        assert 50 < sum(sleeps) < 62
        sandbox.workspace.set_scenario(KEY, "rate_limited_long:1")
        assert hook.test_connection() == (
            False,
            "HTTP 429: the rate limit of this key is reached at the moment. Try again in 600 s.",
        )
        assert re.search(r"another \d{3} s, so nothing is sent until then\.$", hook.test_connection()[1])
        with pytest.raises(RateLimitError, match="another 600 s"):
            hook.assign(PHONE, ADA)

    def test_a_good_key_is_proven_without_touching_a_conversation(self, hook, sandbox):
        before = json.dumps(sandbox.workspace.as_json()["conversations"])
        assert hook.test_connection() == (True, "Splashify accepts the API key.")
        assert json.dumps(sandbox.workspace.as_json()["conversations"]) == before
        assert sandbox.workspace.answers == {400: 1}

    def test_the_test_request_names_no_customer_and_no_agent(self, raw_server, connect):
        server = raw_server(http("400 Bad Request", '{"result": false, "message": "missing fields"}'))
        connect(f"http://127.0.0.1:{server.port}")
        assert SplashifyHook().test_connection()[0]
        assert server.requests[0].endswith(b"\r\n\r\n{}")

    @pytest.mark.parametrize(
        ("key", "says"),
        [
            ("sk_live_old", "HTTP 401"),
            ("sk_sandbox_ip_blocked", "HTTP 403.*203.0.113.45"),
            ("sk_sandbox_plan_required", "HTTP 403.*plan"),
            ("sk_sandbox_not_found", "HTTP 404.*no such address"),
            ("sk_sandbox_rate_limited", "HTTP 429"),
            ("sk_sandbox_bad_gateway", "HTTP 502"),
            ("sk_sandbox_redirect_301", "HTTP 301"),
            ("sk_sandbox_not_json", "HTTP 200"),
            ("", "no API key"),
        ],
    )
    def test_what_is_wrong_is_told_apart(self, sandbox, connect, key, says):
        connect(sandbox.base_url, password=key)
        works, message = SplashifyHook().test_connection()
        assert not works
        assert re.search(says, message), message
        assert requests_to(sandbox) == (1 if key else 0)

    @pytest.mark.parametrize(
        "scenario",
        ["agent_not_found", "server_error", "unauthorized", "ip_blocked", "not_found", "redirect_301", "result_false"],
    )
    def test_it_speaks_of_the_connection_and_not_of_a_task_or_a_conversation(self, sandbox, connect, scenario):
        connect(sandbox.base_url, password=f"sk_sandbox_{scenario}")
        _, message = SplashifyHook().test_connection()
        assert "task" not in message
        assert "conversation" not in message
        assert "\n" not in message

    def test_an_unreachable_host_is_told_apart(self, connect):
        connect("http://127.0.0.1:9")
        assert SplashifyHook().test_connection()[0] is False
        assert SplashifyHook().test_connection()[1].startswith("Unreachable: ")

    def test_a_server_that_accepts_everything_is_not_splashify(self, raw_server, connect):
        connect(f"http://127.0.0.1:{raw_server(SUCCESS).port}")
        works, message = SplashifyHook().test_connection()
        assert not works
        assert "does not answer as Splashify's API does" in message

    @pytest.mark.parametrize("body", ["", "<html>The plain HTTP request was sent to HTTPS port</html>"])
    def test_a_400_of_somebody_else_is_no_proof(self, raw_server, connect, body):
        connect(f"http://127.0.0.1:{raw_server(http('400 Bad Request', body)).port}")
        assert not SplashifyHook().test_connection()[0]

    def test_the_old_form_has_the_labels_of_the_new_one(self):
        behaviour = SplashifyHook.get_ui_field_behaviour()
        assert set(behaviour) == {"hidden_fields", "relabeling", "placeholders"}
        assert behaviour["relabeling"]["password"] == "API key"
        assert "default_region" in behaviour["placeholders"]["extra"]

    def test_every_public_method_is_documented(self):
        for name, member in inspect.getmembers(SplashifyHook, inspect.isfunction):
            if not name.startswith("_") and member.__module__ == SplashifyHook.__module__:
                assert inspect.getdoc(member), name
