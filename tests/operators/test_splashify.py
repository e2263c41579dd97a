from __future__ import annotations

import os
import socket
import traceback
from datetime import datetime, timedelta, timezone

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, AirflowSkipException, BaseOperator, task

from splashify_provider.exceptions import (
    AgentInactiveError,
    ConversationNotFoundError,
    InvalidAgentEmailError,
    InvalidPhoneNumberError,
    RateLimitError,
    ServerError,
    SplashifyConnectionError,
)
from splashify_provider.operators.splashify import (
    SplashifyAssignOperator,
    SplashifyReleaseOperator,
)
from tests.conftest import ADA, BEN, CLOSED, DAN, PHONE, requests_to, shown_in_frames
from tests.operators.dags import serialize


class TestAssign:
    def test_a_conversation_is_assigned_and_a_small_masked_summary_returned(self, run, sandbox):
        summary = run(user_phone_number="+1 202-555-0101", agent_email=BEN)
        assert summary == {
            "outcome": "assigned",
            "user_phone_number": "…0101",
            "agent_email": BEN,
            "message": "Chat Assigned Successfully",
        }
        assert sandbox.workspace.conversations[PHONE].agent_email == BEN

    @pytest.mark.parametrize(
        ("phone", "agent", "cause"),
        [
            ("9876543210", ADA, InvalidPhoneNumberError),
            (PHONE, "", InvalidAgentEmailError),
            (PHONE, "None", InvalidAgentEmailError),
            (PHONE, None, InvalidAgentEmailError),
        ],
    )
    def test_bad_input_fails_for_good_with_nothing_sent(self, run, sandbox, phone, agent, cause):
        with pytest.raises(AirflowFailException, match="Nothing was sent") as raised:
            run(user_phone_number=phone, agent_email=agent)
        assert isinstance(raised.value.__cause__, cause)
        assert requests_to(sandbox) == 0

    def test_an_error_that_waiting_cannot_heal_fails_without_retries_and_says_what_to_do(self, run, sandbox, log):
        with pytest.raises(AirflowFailException, match="Enable them under Settings → Team") as raised:
            run(user_phone_number=PHONE, agent_email=DAN)
        assert isinstance(raised.value.__cause__, AgentInactiveError)
        assert requests_to(sandbox) == 1
        reason, remedy = str(raised.value).splitlines()
        assert reason == "Agent inactive: dan@example.com is disabled in Splashify; …0101 was not assigned."
        assert remedy.endswith("Then clear this task (or, with Downstream, the one that the value comes from).")
        assert reason in log.text
        assert remedy in log.text
        assert f"{reason}\n{remedy}" not in log.text  # a line each, so that neither runs off the screen
        assert PHONE not in log.text
        assert shown_in_frames(raised.value) == []

    @pytest.mark.parametrize(
        ("scenario", "error"),
        [("server_error", ServerError), ("rate_limited_long", RateLimitError), ("reset", SplashifyConnectionError)],
    )
    def test_an_error_that_waiting_may_heal_is_left_to_airflows_retries(self, run, sandbox, scenario, error):
        sandbox.workspace.set_scenario(PHONE, scenario)
        with pytest.raises(error):
            run(user_phone_number=PHONE, agent_email=BEN)

    def test_no_conversation_fails_unless_it_is_to_be_skipped(self, run, log):
        with pytest.raises(AirflowFailException, match="no open conversation") as raised:
            run(user_phone_number=CLOSED, agent_email=ADA)
        assert isinstance(raised.value.__cause__, ConversationNotFoundError)
        with pytest.raises(AirflowSkipException, match="…0111 has no open conversation. There is nothing to do."):
            run(user_phone_number=CLOSED, agent_email=ADA, on_conversation_not_found="skip")
        assert CLOSED not in log.text

    def test_skipping_what_is_not_found_does_not_skip_other_failures(self, run):
        with pytest.raises(AirflowFailException):
            run(user_phone_number=PHONE, agent_email=DAN, on_conversation_not_found="skip")

    @pytest.mark.parametrize(
        "wrong",
        [
            {"on_conversation_not_found": "ignore"},
            {"max_run_age": 8},
            {"max_run_age": "8h"},
            *({"dry_run": text} for text in ("no", "", "None", 1)),
        ],
    )
    def test_a_wrong_argument_is_named_before_anything_is_sent(self, run, sandbox, wrong):
        with pytest.raises(AirflowFailException, match=next(iter(wrong))):
            run(user_phone_number=PHONE, agent_email=ADA, **wrong)
        assert requests_to(sandbox) == 0

    def test_a_dry_run_validates_and_sends_nothing(self, run, sandbox, log):
        result = run(user_phone_number=PHONE, agent_email=BEN, dry_run=True)
        assert result == {"outcome": "dry_run", "user_phone_number": "…0101", "agent_email": BEN, "message": ""}
        assert "would assign …0101 to ben@example.com" in log.text
        with pytest.raises(AirflowFailException):
            run(user_phone_number="9876543210", agent_email=BEN, dry_run=True)
        with pytest.raises(AirflowFailException):
            run(user_phone_number=PHONE, agent_email="", dry_run=True)
        assert requests_to(sandbox) == 0

    @pytest.mark.skipif(not hasattr(BaseOperator, "dry_run"), reason="this Airflow has none")
    def test_airflows_own_dry_run_still_works(self):
        SplashifyAssignOperator(task_id="assign", user_phone_number=PHONE, agent_email=ADA, dry_run=True).dry_run()

    def test_inputs_are_templates_and_an_empty_one_does_not_release(self, run, sandbox):
        operator = SplashifyAssignOperator(
            task_id="assign",
            user_phone_number="+{{ phone }}",
            agent_email="{{ owner }}",
            fallback_agents="{{ others | join(',') }}",
            splashify_conn_id="{{ conn }}_default",
        )
        operator.render_template_fields({"phone": PHONE, "owner": None, "conn": "splashify", "others": [ADA, BEN]})
        assert operator.fallback_agents == f"{ADA},{BEN}"
        assert (operator.user_phone_number, operator.agent_email) == ("+" + PHONE, "None")
        assert operator.splashify_conn_id == "splashify_default"
        with pytest.raises(AirflowFailException, match="release"):
            operator.execute({})
        assert requests_to(sandbox) == 0


class TestNextInLine:
    NOBODY = "nobody@example.com"

    @pytest.mark.parametrize("fallbacks", [[NOBODY, BEN, ADA], f"{NOBODY}, {BEN}; {ADA}"])
    def test_the_first_who_is_not_refused_has_it_and_each_refused_one_is_logged_once(
        self, run, sandbox, log, fallbacks
    ):
        summary = run(user_phone_number=PHONE, agent_email=DAN, fallback_agents=fallbacks)
        assert (summary["outcome"], summary["agent_email"]) == ("assigned", BEN)
        assert sandbox.workspace.conversations[PHONE].agent_email == BEN
        assert requests_to(sandbox) == 3
        once = log.text.count(f"Assigned …0101 to {BEN}")  # Airflow 2 logs it in several places
        assert log.text.count(f"Agent inactive: {DAN}") == once
        assert log.text.count(f"Agent not found: {self.NOBODY}") == once
        assert log.text.count("Enable them under Settings → Team") == once
        assert f"Next in line: {BEN}." in log.text
        assert PHONE not in log.text

    def test_where_all_are_refused_it_fails_at_once_and_names_them(self, run, sandbox):
        with pytest.raises(AirflowFailException) as raised:
            run(user_phone_number=PHONE, agent_email=DAN, fallback_agents=[self.NOBODY])
        reason, remedy = str(raised.value).splitlines()
        assert reason == (
            f"Agent inactive: {DAN} is disabled in Splashify. Agent not found: {self.NOBODY} is not in this Splashify "
            "workspace; …0101 was not assigned."
        )
        assert "Enable them" in remedy
        assert "Add them" in remedy
        assert requests_to(sandbox) == 2
        assert shown_in_frames(raised.value) == []

    def test_other_errors_are_nobodys_turn(self, run, sandbox):
        with pytest.raises(AirflowFailException, match="no open conversation"):
            run(user_phone_number=CLOSED, agent_email=ADA, fallback_agents=[BEN])
        assert requests_to(sandbox) == 1

    @pytest.mark.parametrize("dry_run", [True, False])
    def test_who_is_none_is_found_out_before_anything_is_sent(self, run, sandbox, dry_run):
        with pytest.raises(AirflowFailException, match="'eva', not an address"):
            run(user_phone_number=PHONE, agent_email=ADA, fallback_agents="eva", dry_run=dry_run)
        assert requests_to(sandbox) == 0


class TestRelease:
    def test_a_conversation_is_released(self, run, sandbox):
        result = run(SplashifyReleaseOperator, user_phone_number=PHONE)
        assert (result["outcome"], result["agent_email"]) == ("released", None)
        assert sandbox.workspace.conversations[PHONE].agent_email is None

    def test_a_dry_run_sends_nothing(self, run, sandbox, log):
        assert run(SplashifyReleaseOperator, user_phone_number=PHONE, dry_run=True)["outcome"] == "dry_run"
        assert "would release …0101" in log.text
        assert requests_to(sandbox) == 0

    def test_no_conversation_may_be_skipped(self, run):
        with pytest.raises(AirflowSkipException):
            run(SplashifyReleaseOperator, user_phone_number=CLOSED, on_conversation_not_found="skip")


def test_a_number_goes_from_the_operator_to_the_socket_in_eight_calls_of_ours(run, monkeypatch):
    calls = []

    def send(sock, *arguments):
        frames = [frame.filename for frame in traceback.extract_stack()]
        calls.append([name for name in frames if f"{os.sep}splashify_provider{os.sep}" in name])
        return real(sock, *arguments)

    real = socket.socket.sendall
    monkeypatch.setattr(socket.socket, "sendall", send)
    run(user_phone_number=PHONE, agent_email=BEN)
    assert calls
    assert max(map(len, calls)) <= 8


def test_a_dag_may_use_it_classic_mapped_and_with_taskflow_inputs():
    with DAG("handover", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)) as dag:

        @task
        def owner():
            return ADA

        SplashifyAssignOperator(
            task_id="classic", user_phone_number="+{{ params.phone }}", agent_email=ADA, max_run_age=timedelta(hours=8)
        )
        fed = SplashifyAssignOperator(task_id="fed", user_phone_number=PHONE, agent_email=owner())
        SplashifyAssignOperator.partial(
            task_id="mapped", on_conversation_not_found="skip", max_run_age=timedelta(hours=8), dry_run=True
        ).expand_kwargs([{"user_phone_number": PHONE, "agent_email": ADA}])
        SplashifyReleaseOperator.partial(task_id="release").expand(user_phone_number=[PHONE])
    assert fed.upstream_task_ids == {"owner"}
    copy = serialize(dag)
    assert set(copy.task_ids) == {"classic", "fed", "mapped", "owner", "release"}
    assert list(copy.get_task("classic").template_fields) == list(SplashifyAssignOperator.template_fields)


def test_a_misspelt_argument_is_refused_when_the_dag_is_parsed():
    with pytest.raises(TypeError, match="max_age"):
        SplashifyAssignOperator.partial(task_id="mapped", max_age=1).expand(user_phone_number=[PHONE])


@pytest.mark.parametrize("operator", [SplashifyAssignOperator, SplashifyReleaseOperator])
def test_every_template_field_is_documented_as_one(operator):
    for field in operator.template_fields:
        line = operator.__doc__.split(f":param {field.removeprefix('is_')}:")[1].split(":param ")[0]
        assert "(templated)" in line, field
