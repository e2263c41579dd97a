"""What the bulk operator leaves for people: its report, and what is in XCom."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
)

from splashify_provider.exceptions import (
    ServerError,
)
from tests.bulk.test_report import full_disk
from tests.conftest import ADA, DAN, number, rows, team
from tests.operators.bulk_task import read, run


class TestXCom:
    def test_nothing_is_pushed_where_that_is_not_wanted(self, workspace, context):
        workspace()
        with pytest.raises(AirflowFailException):
            run(rows(1, agent=DAN), context, do_xcom_push=False)
        assert context["ti"].pushed == {}

    def test_a_push_that_fails_does_not_hide_why_the_task_does(self, workspace, context, log):
        workspace(team(n1="server_error"), extra={"max_attempts": 1})

        def broken(**_):
            raise RuntimeError("API server is away")

        context["ti"].xcom_push = broken
        with pytest.raises(ServerError, match="1 of 1"):
            run(rows(1), context)
        assert "could not be pushed" in log.text


class TestReport:
    def test_every_try_adds_a_line_for_every_row(self, workspace, context, tmp_path):
        workspace()
        path = tmp_path / "r.jsonl"
        plan = [*rows(1, 2, 1), *rows(3, agent=DAN), {"user_phone_number": "12", "agent_email": ADA}]
        for _ in range(2):
            with pytest.raises(AirflowFailException):
                run(plan, context, on_invalid="skip", report_path=str(path))
        lines = read(path)
        assert {line["position"]: line["outcome"] for line in lines[:5]} == {
            1: "assigned",
            2: "assigned",
            3: "duplicate",
            4: "agent_inactive",
            5: "invalid",
        }
        assert {line["position"]: line["outcome"] for line in lines[5:]} == {
            1: "done_before",
            2: "done_before",
            3: "duplicate",
            4: "agent_inactive",
            5: "invalid",
        }
        assert "12025550" not in path.read_text()

    def test_wrong_arguments_and_bad_rows_leave_it_alone(self, workspace, tmp_path):
        workspace()
        path = tmp_path / "r.jsonl"
        for wrong in ({"max_in_flight": 0}, {"assignments": rows(1, agent="")}):
            with pytest.raises(AirflowFailException):
                run(**{"assignments": rows(1), "report_path": str(path), **wrong})
        assert not path.exists()

    def test_it_is_a_path(self, workspace):
        workspace()
        with pytest.raises(AirflowFailException, match="report_path must be a path, not int"):
            run(rows(1), report_path=5)

    def test_it_is_never_the_plan(self, workspace, tmp_path):
        _, sandbox, _ = workspace()
        path = tmp_path / "plan.csv"
        path.write_text(f"user_phone_number,agent_email\n+{number(1)},{ADA}\n")
        with pytest.raises(AirflowFailException, match="report_path is the file of assignments itself"):
            run(str(path), report_path=path.as_uri())
        assert path.read_text().count("\n") == 2
        assert not sandbox.workspace.answers

    def test_one_that_can_not_be_used_is_found_out_before_anything_is_sent(self, workspace, tmp_path):
        _, sandbox, _ = workspace()
        with pytest.raises(AirflowFailException, match="can't be used"):
            run(rows(1), report_path=str(tmp_path))
        assert not sandbox.workspace.answers

    def test_a_full_disk_ends_no_batch_but_the_task_says_so_and_a_retry_writes_it(self, workspace, context, tmp_path):
        _, _, posted = workspace()
        path = tmp_path / "r.jsonl"
        path.write_text("{}\n" * 500_000)
        with (
            full_disk(1_500_000),
            pytest.raises(AirflowException, match="complete, but the report .* could not be") as raised,
        ):
            run(rows(*range(20)), context, report_path=str(path))
        assert not isinstance(raised.value, AirflowFailException)
        assert run(rows(*range(20)), context, report_path=str(path))["done_before"] == {"assigned": 20}
        assert len(posted) == 20
        assert [line["outcome"] for line in read(path)] == ["done_before"] * 20
