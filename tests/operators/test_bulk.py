from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from inspect import signature

import pytest
from airflow.providers.common.compat.sdk import (
    DAG,
    AirflowFailException,
    AirflowSkipException,
    BaseHook,
    ObjectStoragePath,
    task,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splashify_provider.exceptions import (
    AgentInactiveError,
    AuthenticationError,
    RateLimitError,
    ServerError,
    SplashifyConfigurationError,
)
from splashify_provider.operators.splashify import SplashifyBulkAssignOperator
from tests.conftest import ADA, BEN, DAN, PHONE, number, rows, shown_in_frames, team
from tests.operators.bulk_task import read, run


class TestSuccess:
    def test_everything_is_assigned_and_a_small_summary_returned(self, workspace, log):
        _, sandbox, _ = workspace()
        summary = run(rows(*range(300)), plan_id="p1")
        assert isinstance(summary.pop("seconds"), float)
        assert datetime.fromisoformat(summary.pop("ended_at")).tzinfo
        assert summary == {
            "total": 300,
            "counts": {"assigned": 300},
            "done_before": {},
            "duplicates": 0,
            "undone": 0,
            "not_done": [],
            "elsewhere": {},
            "refused_agents": {},
            "failures": [],
            "plan_id": "p1",
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


class TestChecking:
    def test_bad_rows_fail_the_task_for_good_before_anything_is_sent(self, workspace, log):
        _, sandbox, _ = workspace()
        with pytest.raises(AirflowFailException, match="2 of 4 rows can't be sent, so nothing was sent") as raised:
            run([*rows(1), *rows(2, agent=""), *rows(3), *rows(3, agent=BEN)])
        assert isinstance(raised.value.__cause__, SplashifyConfigurationError)
        reason, remedy = str(raised.value).split("\n")
        assert "Row 2 (…0002): The agent's e-mail for …0002 is missing." in reason
        assert "Row 4 (…0003): for ben@example.com, but row 3" in reason
        assert reason in log.text
        assert remedy in log.text
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

    def test_the_others_may_go_first_and_the_invalid_ones_fail_the_task_at_the_end(self, workspace, context, log):
        _, _, posted = workspace()
        plan = [*rows(1), *rows(2, agent=""), *rows(3), "no row"]
        with pytest.raises(AirflowFailException, match=r"^3 of 5 conversations are not done \(invalid: 3\)") as raised:
            run(plan, context, on_invalid="continue", releases=["12"])
        assert "Correct the invalid rows" in str(raised.value)
        assert {phone for phone, _ in posted} == {number(1), number(3)}
        summary = context["ti"].pushed["return_value"]
        assert (summary["undone"], summary["not_done"]) == (3, [[2, 2], [4, 5]])
        assert [failure["position"] for failure in summary["failures"]] == [2, 4, 5]
        assert "e-mail for …0002 is missing" in log.text
        posted.clear()
        with pytest.raises(AirflowFailException, match="invalid: 3"):
            run(plan, context, on_invalid="continue", releases=["12"])
        assert posted == []

    def test_that_is_so_where_no_other_is_left_and_in_a_dry_run(self, workspace, context):
        _, sandbox, _ = workspace()
        for dry_run in (False, True):
            with pytest.raises(AirflowFailException, match=r"2 of 2 conversations are not done \(invalid: 2\)"):
                run(rows(1, 2, agent=""), context, on_invalid="continue", dry_run=dry_run)
            assert context["ti"].pushed.pop("return_value")["undone"] == 2
        with pytest.raises(AirflowFailException, match=r"1 of 2 conversations is not done \(invalid: 1\)"):
            run([*rows(1), *rows(2, agent="")], context, on_invalid="continue", dry_run=True)
        assert not sandbox.workspace.answers

    def test_a_list_of_nothing_but_invalid_rows_fails_also_where_they_are_skipped(self, workspace):
        workspace()
        with pytest.raises(AirflowFailException, match="2 of 2 rows can't be sent, so nothing was sent"):
            run(rows(1, 2, agent=""), on_invalid="skip")

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
        assert f"{DAN} is disabled in Splashify; 0 conversations went to the next in line, 1 failed." in log.text
        assert "rows invalid" not in log.text  # it was logged when it was found

    def test_an_empty_list_is_remarked_upon(self, workspace, log):
        workspace()
        run([])
        assert "There is nothing to assign" in log.text

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
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
            {"report_path": " "},
            {"max_consecutive_failures": "3"},
            {"max_run_age": 8},
            {"dry_run": "no"},
            {"on_agent_refused": "skip"},
            {"releases": "None"},
            {"releases": 7},
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
        assert summary["not_done"] == [[1, 3]]
        with pytest.raises(AirflowFailException):
            run(rows(1, agent=""), dry_run=True)
        assert "3 rows: 2 to send, 0 done by an earlier try, 1 duplicate, 0 invalid" in log.text
        assert "Dry run, nothing was sent." in log.text
        assert not sandbox.workspace.answers
        assert not (tmp_path / "r.jsonl").exists()

    def test_an_old_run_skips(self, workspace):
        _, sandbox, _ = workspace()
        due = datetime.now(timezone.utc) - timedelta(hours=9)
        with pytest.raises(AirflowSkipException, match="9 h ago"):
            run(rows(1), {"data_interval_end": due}, max_run_age=timedelta(hours=8))
        assert not sandbox.workspace.answers


class TestFailures:
    def test_permanent_errors_fail_it_for_good_with_the_reason_and_a_summary(self, workspace, context, log):
        workspace()
        with pytest.raises(
            AirflowFailException, match=r"^1 of 30 conversations is not done \(dan@example\.com inactive: 1\)"
        ) as raised:
            run([*rows(*range(29)), *rows(29, agent=DAN)], context)
        assert isinstance(raised.value.__cause__, AgentInactiveError)
        assert str(raised.value).split("\n")[1].endswith("Then clear this task: it sends only what is not done.")
        for line in str(raised.value).split("\n"):
            assert line in log.text
        summary = context["ti"].pushed["return_value"]
        assert summary["counts"] == {"assigned": 29, "agent_inactive": 1}
        assert summary["not_done"] == [[30, 30]]
        assert summary["refused_agents"] == {DAN: {"cause": "agent_inactive", "elsewhere": 0, "failed": 1}}
        (failure,) = summary["failures"]
        assert (failure["position"], failure["user_phone_number"], failure["agent_email"]) == (30, "…0029", DAN)
        assert "Enable them under Settings → Team" in failure["message"]

    def test_every_refused_agent_is_named_with_its_count_and_told_once(self, workspace, context, log):
        workspace()
        nobody = "nobody@example.com"
        with pytest.raises(AirflowFailException) as raised:
            run([*rows(*range(30), agent=DAN), *rows(*range(30, 35), agent=nobody), *rows(40)], context)
        assert "(dan@example.com inactive: 30, nobody@example.com not found: 5)" in str(raised.value)
        assert "0 conversations went to the next in line, 30 failed." in log.text
        assert "0 conversations went to the next in line, 5 failed." in log.text
        assert "Add them under" in str(raised.value)
        assert "Enable them under" in str(raised.value)

    def test_transient_errors_are_left_to_airflows_retries(self, workspace, context):
        workspace(team(n3="server_error"))
        with pytest.raises(ServerError, match="2 of 10 conversations are not done .*dan@example.com inactive: 1"):
            run([*rows(*range(9)), *rows(9, agent=DAN)], context)

    def test_the_error_counts_what_is_not_done_and_names_the_report(self, workspace, old_airflow, tmp_path, log):
        workspace(team(4, n3="server_error"))
        bad = {"user_phone_number": "12", "agent_email": ADA}
        path = tmp_path / "2026-11-23" / "report.jsonl"
        with pytest.raises(ServerError) as raised:
            run([*rows(*range(6)), *rows(0), bad], old_airflow, on_invalid="skip", report_path=str(path))
        reason, remedy = raised.value.reason, raised.value.remedy
        assert reason.startswith("3 of 6 conversations are not done (")
        assert "failed: 1" in reason
        assert "conversation not found: 2" in reason
        assert "sends everything again, which is harmless." in remedy
        assert remedy.endswith(f" Every row's outcome: {path}")
        assert re.search(r"warning.*1 row failed, the first is row 4 \(…0003\): ", log.text, re.IGNORECASE)

    def test_a_partial_failure_can_be_a_success_but_a_total_one_is_none(self, workspace, log):
        workspace()
        summary = run([*rows(1), *rows(2, agent=DAN)], fail_on_partial_error=False)
        assert summary["counts"] == {"assigned": 1, "agent_inactive": 1}
        assert "1 of 2 conversations is not done (dan@example.com inactive: 1)" in log.text
        assert "The task succeeds all the same" in log.text
        with pytest.raises(AirflowFailException):
            run(rows(2, 3, agent=DAN), fail_on_partial_error=False)

    def test_customers_without_a_conversation_fail_unless_they_are_to_be_skipped(self, workspace):
        workspace(team(5))
        with pytest.raises(AirflowFailException, match="conversation not found: 1"):
            run(rows(1, 9))
        summary = run(rows(1, 9), on_conversation_not_found="skip")
        assert summary["counts"] == {"assigned": 1, "conversation_not_found": 1}
        assert summary["failures"] == []
        assert summary["not_done"] == [[2, 2]]

    def test_a_refused_key_stops_and_fails_for_good(self, workspace, connect, context):
        _, sandbox, _ = workspace()
        connect(sandbox.base_url, password="sk_live_old")
        with pytest.raises(
            AirflowFailException, match=r"the batch was stopped\..*does not accept the API key"
        ) as raised:
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
        with pytest.raises(AirflowFailException, match="Create connection 'no_such'"):
            run(rows(1), splashify_conn_id="no_such")

    @pytest.mark.parametrize("missing", ["assignments", "report_path"])
    def test_a_storage_connection_that_is_missing_is_the_one_that_is_named(self, workspace, monkeypatch, missing):
        workspace()
        monkeypatch.setattr(ObjectStoragePath, "fs", property(lambda _: BaseHook.get_connection("minio_files")))
        with pytest.raises(AirflowFailException, match="`minio_files` isn't defined") as raised:
            run(**{"assignments": rows(1), missing: "s3://minio_files@bucket/file"})
        assert "splashify_default" not in str(raised.value)

    @pytest.mark.parametrize(
        "content",
        [
            f'user_phone_number,agent_email\n+{PHONE},{ADA}\n+{PHONE},"x',
            f'{{"user_phone_number": "+{PHONE}", "agent_email": "{ADA}"}}\n' + "x" * 200_000,
            f"user_phone_number,agent_email\n+{PHONE},{ADA}\n+{PHONE},{DAN}\n",
            f"user_phone_number,agent_email\n+{PHONE},\n",
            f"user_phone_number,agent_email\n+{PHONE},{DAN}\n",
        ],
    )
    def test_no_error_shows_a_number_in_the_variables_of_its_frames(self, workspace, tmp_path, content):
        workspace()
        (tmp_path / "plan").write_text(content)
        with pytest.raises(AirflowFailException) as raised:
            run(str(tmp_path / "plan"))
        assert shown_in_frames(raised.value) == []


def test_templates_are_rendered_natively_and_as_text(workspace):
    workspace()
    operator = SplashifyBulkAssignOperator(
        task_id="assign",
        assignments="{{ plan | tojson }}",
        releases="{{ away | tojson }}",
        plan_id="{{ run_id }}",
        report_path="{{ folder }}/{{ run_id }}.jsonl",
        dry_run="{{ rehearse }}",
    )
    given = {"plan": rows(1, 2), "away": ["+" + number(3)], "folder": "/reports", "run_id": "r1", "rehearse": False}
    operator.render_template_fields(given)
    assert operator.report_path == "/reports/r1.jsonl"
    operator.report_path = None
    summary = operator.execute({})
    assert (summary["counts"], summary["plan_id"]) == ({"assigned": 2, "released": 1}, "r1")


def test_every_argument_is_in_its_signature():
    arguments = signature(SplashifyBulkAssignOperator.__init__).parameters
    assert list(arguments)[1:-1] == re.findall(r":param (\w+):", SplashifyBulkAssignOperator.__doc__)


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
        line = SplashifyBulkAssignOperator.__doc__.split(f":param {field.removeprefix('is_')}:")[1].split(":param ")[0]
        assert "(templated)" in line, field
