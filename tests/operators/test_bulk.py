from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, AirflowSkipException, task
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splashify_provider.bulk import progress
from splashify_provider.exceptions import (
    AgentInactiveError,
    AuthenticationError,
    RateLimitError,
    ServerError,
    SplashifyConfigurationError,
)
from splashify_provider.hooks import batch
from splashify_provider.operators.splashify import SplashifyBulkAssignOperator
from tests.conftest import ADA, BEN, DAN, number, rows, team
from tests.operators.bulk_task import read, run


class TestSuccess:
    def test_everything_is_assigned_and_a_small_summary_returned(self, workspace, log):
        _, sandbox, _ = workspace()
        assert run(rows(*range(300))) == {
            "total": 300,
            "counts": {"assigned": 300},
            "done_before": 0,
            "duplicates": 0,
            "failures": [],
        }
        assert sum(chat.agent_email == ADA for chat in sandbox.workspace.conversations.values()) == 300
        assert "300 rows: 300 to send" in log.text
        assert "assigned                       300" in log.text
        assert "12025550" not in log.text

    def test_nothing_to_do_is_a_success(self, workspace):
        workspace()
        assert run([])["total"] == 0

    def test_the_same_number_and_agent_twice_is_sent_once_however_they_are_written(self, workspace):
        _, _, posted = workspace()
        twice = [
            {"user_phone_number": "+1 (202) 555-0007", "agent_email": ADA},
            {"user_phone_number": "12025550007", "agent_email": " Ada@Example.com "},
        ]
        assert run(twice)["duplicates"] == 1
        assert posted == [(number(7), ADA)]

    def test_progress_is_logged_every_few_seconds(self, workspace, log, monkeypatch):
        monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
        monkeypatch.setattr(batch, "_SECONDS_BETWEEN_IDLE_CALLS", 0.0)
        workspace(team(n1="bad_request"))
        with pytest.raises(AirflowFailException):
            run(rows(*range(50)))
        assert "25 of 50 (50 %)" in log.text
        assert "24 assigned, 1 rejected" in log.text
        assert " a second, " in log.text
        assert " left." in log.text


class TestChecking:
    def test_all_bad_rows_are_reported_at_once_and_nothing_is_sent(self, workspace, log):
        _, sandbox, _ = workspace()
        bad = [
            *rows(1),
            {"user_phone_number": "9876543210", "agent_email": ADA},
            {"user_phone_number": "+" + number(2), "agent_email": ""},
            {"agent_email": ADA},
            None,
            *rows(3, agent=ADA),
            *rows(3, agent=BEN),
        ]
        with pytest.raises(AirflowFailException, match="5 of 7 rows can't be sent, so nothing was sent") as raised:
            run(bad)
        assert isinstance(raised.value.__cause__, SplashifyConfigurationError)
        text = str(raised.value)
        for position, why in [(2, "…3210"), (3, "release()"), (4, "missing"), (5, "NoneType"), (7, "row 6 gives")]:
            assert f"Row {position} " in text
            assert why in text
            assert f"Row {position} " in log.text
        assert "9876543210" not in text + log.text
        assert not sandbox.workspace.answers

    def test_two_agents_for_one_number_fail_even_where_invalid_rows_are_skipped(self, workspace):
        _, sandbox, _ = workspace()
        bad = [{"user_phone_number": "12", "agent_email": ADA}] * 1500
        clash = [{"user_phone_number": "+1 202 555 0003", "agent_email": ADA}, *rows(3, agent=BEN)]
        with pytest.raises(
            AirflowFailException, match="^1 of 1,502 rows .* not where one number is for two agents"
        ) as raised:
            run([*bad, *clash], on_invalid="skip")
        text = str(raised.value)
        assert "Row 1502 (…0003): for ben@example.com, but row 1501 gives the same number to ada@example.com" in text
        assert "Row 1 " not in text
        assert not sandbox.workspace.answers

    def test_invalid_rows_can_be_left_out(self, workspace, tmp_path, log):
        _, _, posted = workspace()
        bad = {"user_phone_number": "9876543210", "agent_email": ADA}
        summary = run([*rows(1), bad, *rows(2)], on_invalid="skip", report_path=str(tmp_path / "r.jsonl"))
        assert summary["counts"] == {"assigned": 2, "invalid": 1}
        assert summary["failures"][0]["position"] == 2
        assert {phone for phone, _ in posted} == {number(1), number(2)}
        assert [line["outcome"] for line in read(tmp_path / "r.jsonl") if line["position"] == 2] == ["invalid"]
        assert "9876543210" not in (tmp_path / "r.jsonl").read_text() + log.text

    def test_a_list_of_nothing_but_invalid_rows_is_no_fault(self, workspace, monkeypatch):
        monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
        workspace()
        assert run(rows(1, agent=""), on_invalid="skip")["counts"] == {"invalid": 1}

    def test_swapped_columns_show_no_more_than_four_digits_in_whatever_script(self, workspace, log):
        workspace()
        with pytest.raises(AirflowFailException) as raised:
            run(
                [
                    {
                        "user_phone_number": ADA,
                        "agent_email": "\u0669\u0661\u0669\u0668\u0667\u0666\u0665\u0664\u0663\u0662\u0661\u0660",
                    }
                ]
            )
        text = str(raised.value) + log.text
        assert "\\u06" not in text
        assert "9198" not in text

    def test_invalid_rows_leave_room_for_those_that_failed(self, workspace, context, log):
        workspace()
        bad = {"user_phone_number": "12", "agent_email": ADA}
        with pytest.raises(AirflowFailException):
            run([*[bad] * 150, *rows(1, agent=DAN), bad], context, on_invalid="skip")
        failures = context["ti"].pushed["return_value"]["failures"]
        assert [failures[0]["position"], len(failures)] == [151, 100]
        assert "Row 151 agent_inactive: " in log.text
        assert "Row 1 invalid: " not in log.text  # it was logged when it was found

    def test_an_empty_list_is_remarked_upon(self, workspace, log):
        workspace()
        run([])
        assert "There is nothing to assign" in log.text

    def test_thousands_of_bad_rows_make_a_short_error(self, workspace):
        workspace()
        with pytest.raises(AirflowFailException, match="and 4,980 more") as raised:
            run([{"user_phone_number": "12", "agent_email": ADA}] * 5000)
        assert len(str(raised.value)) < 6000

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(st.integers(0, 8), st.sampled_from([ADA, BEN, ""])), max_size=25))
    def test_whatever_the_list_either_all_of_it_is_done_or_nothing_is_sent(self, workspace, chosen):
        _, _, posted = workspace()
        wanted = {}
        for index, agent in chosen:
            wanted.setdefault(number(index), set()).add(agent)
        try:
            run([row for index, agent in chosen for row in rows(index, agent=agent)])
        except AirflowFailException:
            assert any(len(agents) > 1 or agents == {""} for agents in wanted.values())
            assert not posted
        else:
            assert sorted(posted) == sorted((phone, agent) for phone, (agent,) in wanted.items())

    @pytest.mark.parametrize(
        "wrong",
        [
            {"on_invalid": "ignore"},
            {"on_conversation_not_found": "ignore"},
            {"fail_on_partial_error": "no"},
            {"report_phone_numbers": True},
            {"max_in_flight": 0},
            {"max_in_flight": 0, "dry_run": True},
            {"report_path": "None"},
            {"max_consecutive_failures": "3"},
            {"max_run_age": 8},
            {"dry_run": "False"},
        ],
    )
    def test_a_wrong_argument_is_named_before_anything_is_sent(self, workspace, wrong):
        _, sandbox, _ = workspace()
        with pytest.raises(AirflowFailException, match=next(iter(wrong))):
            run(rows(1), **wrong)
        assert not sandbox.workspace.answers

    def test_a_dry_run_checks_everything_and_sends_nothing(self, workspace, log, tmp_path):
        _, sandbox, _ = workspace()
        summary = run(rows(1, 2, 2), dry_run=True, report_path=str(tmp_path / "r.jsonl"))
        assert (summary["total"], summary["duplicates"], summary["counts"]) == (3, 1, {})
        with pytest.raises(AirflowFailException):
            run(rows(1, agent=""), dry_run=True)
        assert "would send 2 assignments" in log.text
        assert not sandbox.workspace.answers
        assert not (tmp_path / "r.jsonl").exists()

    def test_an_old_run_skips(self, workspace):
        _, sandbox, _ = workspace()
        due = datetime.now(timezone.utc) - timedelta(hours=9)
        with pytest.raises(AirflowSkipException, match="9 h ago"):
            run(rows(1), {"data_interval_end": due}, max_run_age=timedelta(hours=8))
        assert not sandbox.workspace.answers


class TestFailures:
    def test_what_waiting_cannot_heal_fails_for_good_with_the_reason_and_a_summary(self, workspace, context, log):
        workspace()
        with pytest.raises(
            AirflowFailException, match=r"1 of 30 assignments are not done \(1 agent_inactive\)\. Agent inactive"
        ) as raised:
            run([*rows(*range(29)), *rows(29, agent=DAN)], context)
        assert isinstance(raised.value.__cause__, AgentInactiveError)
        summary = context["ti"].pushed["return_value"]
        assert summary["counts"] == {"assigned": 29, "agent_inactive": 1}
        (failure,) = summary["failures"]
        assert (failure["position"], failure["user_phone_number"], failure["agent_email"]) == (30, "…0029", DAN)
        assert "Enable them under Settings → Team" in failure["message"]
        assert "30 agent_inactive: Agent inactive" in log.text

    def test_what_waiting_may_heal_is_left_to_airflows_retries(self, workspace, context):
        workspace(team(n3="server_error"))
        with pytest.raises(ServerError, match="2 of 10 assignments are not done"):
            run([*rows(*range(9)), *rows(9, agent=DAN)], context)

    def test_the_error_counts_what_is_not_done_and_names_the_report(self, workspace, context, tmp_path, log):
        workspace(team(4, n3="server_error"))
        bad = {"user_phone_number": "12", "agent_email": ADA}
        path = tmp_path / "2026-11-23" / "report.jsonl"
        with pytest.raises(ServerError) as raised:
            run([*rows(*range(6)), *rows(0), bad], context, on_invalid="skip", report_path=str(path))
        text = str(raised.value)
        assert "3 of 6 assignments are not done (2 conversation_not_found, 1 failed). " in text
        assert text.endswith(f" All of them: {path}")
        assert re.search(r"warning.*Row 4 failed: ", log.text, re.IGNORECASE)

    def test_a_partial_failure_can_be_a_success_but_a_total_one_is_none(self, workspace, log):
        workspace()
        summary = run([*rows(1), *rows(2, agent=DAN)], fail_on_partial_error=False)
        assert summary["counts"] == {"assigned": 1, "agent_inactive": 1}
        assert "1 of 2 assignments are not done (1 agent_inactive). The task succeeds all the same" in log.text
        with pytest.raises(AirflowFailException):
            run(rows(2, 3, agent=DAN), fail_on_partial_error=False)

    def test_customers_without_a_conversation_fail_unless_they_are_to_be_skipped(self, workspace):
        workspace(team(5))
        with pytest.raises(AirflowFailException, match="no open conversation"):
            run(rows(1, 9))
        summary = run(rows(1, 9), on_conversation_not_found="skip")
        assert summary["counts"] == {"assigned": 1, "conversation_not_found": 1}
        assert summary["failures"] == []

    def test_a_refused_key_stops_and_fails_for_good(self, workspace, connect, context):
        _, sandbox, _ = workspace()
        connect(sandbox.base_url, password="sk_live_old")
        with pytest.raises(AirflowFailException, match="the batch was stopped.*does not accept the API key") as raised:
            run(rows(*range(200)), context, fail_on_partial_error=False)
        assert isinstance(raised.value.__cause__, AuthenticationError)
        counts = context["ti"].pushed["return_value"]["counts"]
        assert counts["not_attempted"] >= 192
        assert len(context["ti"].pushed["return_value"]["failures"]) == 100

    def test_a_long_wait_is_raised_with_its_length(self, workspace, context):
        workspace(team(n30="rate_limited_long"))
        with pytest.raises(RateLimitError, match="the batch was stopped") as raised:
            run(rows(*range(60)), context)
        assert 599 < raised.value.retry_after < 601

    def test_a_missing_connection_is_named(self):
        with pytest.raises(AirflowFailException, match="create connection 'no_such'"):
            run(rows(1), splashify_conn_id="no_such")


def test_a_dag_may_use_it_classic_mapped_and_with_taskflow_inputs():
    with DAG("bulk", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)):

        @task
        def plan():
            return rows(1)

        fed = SplashifyBulkAssignOperator(task_id="fed", assignments=plan(), retries=2)
        mapped = SplashifyBulkAssignOperator.partial(task_id="mapped", on_invalid="skip").expand(
            assignments=[rows(1), rows(2)]
        )
    assert fed.upstream_task_ids == {"plan"}
    assert mapped.task_id == "mapped"
    with pytest.raises(TypeError, match="max_age"):
        SplashifyBulkAssignOperator.partial(task_id="other", max_age=1).expand(assignments=[[]])


def test_every_template_field_is_documented_as_one():
    for field in SplashifyBulkAssignOperator.template_fields:
        line = SplashifyBulkAssignOperator.__doc__.split(f":param {field}:")[1].split(":param ")[0]
        assert "(templated)" in line, field
