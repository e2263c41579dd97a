"""What the bulk operator leaves for people: its report, and what is in XCom."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
)

from splashify_provider.bulk.checkpoint import CHUNK
from splashify_provider.bulk.progress import Progress
from splashify_provider.exceptions import (
    ServerError,
)
from tests.bulk.test_checkpoint import BrokenStore
from tests.bulk.test_report import full_disk
from tests.conftest import ADA, BEN, DAN, number, rows, team
from tests.operators.bulk_task import Instance, read, run


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
        assert log.text.count("could not be pushed") == log.text.count("The batch took")

    def test_a_batch_goes_on_where_it_can_not_be_published(self, workspace, context, log):
        workspace()
        context["ti"].xcom_push = None
        assert run(rows(*range(500)), context)["counts"] == {"assigned": 500}
        assert log.text.count("could not be pushed") == log.text.count("The batch took")

    @pytest.mark.parametrize("has_store", [True, False])
    def test_it_has_what_is_done_while_the_batch_runs_but_for_what_is_not_saved_either(
        self, workspace, context, old_airflow, has_store
    ):
        _, sandbox, posted = workspace()
        context = context if has_store else old_airflow
        assign, behind, pushes = sandbox.workspace.assign, [], []
        context["ti"].xcom_push = lambda key, value: pushes.append(value)

        def compare(phone, agent):
            behind.append(len(posted) - sum(pushes[-1]["counts"].values()))
            return assign(phone, agent)

        sandbox.workspace.assign = compare
        returned = run(rows(*range(1000)), context, plan_id="p1")
        assert max(behind) <= CHUNK
        assert 5 < len(pushes) < 30
        assert {value["plan_id"] for value in pushes} == {"p1"}
        assert pushes[-1].keys() == returned.keys()
        assert pushes[-1]["undone"] + pushes[-1]["counts"]["assigned"] == 1000

    def test_a_retry_tells_at_once_what_earlier_tries_have_done(self, workspace, context):
        workspace()
        with pytest.raises(AirflowFailException):
            run([*rows(1, 2), *rows(3, agent=DAN)], context)
        pushes = []
        context["ti"].xcom_push = lambda key, value: pushes.append(value)
        run(rows(1, 2, 4), context)
        assert (pushes[0]["done_before"], pushes[0]["not_done"]) == ({"assigned": 2}, [[3, 3]])

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"assignments": [*rows(1), *rows(2, agent="")]}, AirflowFailException),  # nothing is sent
            ({"assignments": [*rows(1), *rows(1, agent=BEN)]}, AirflowFailException),
            ({"report_path": "/dev/null"}, AirflowFailException),
            ({"max_in_flight": 1}, ZeroDivisionError),
        ],
    )
    def test_however_a_task_fails_once_its_rows_are_read(self, workspace, context, monkeypatch, arguments, error):
        workspace()
        if error is ZeroDivisionError:
            monkeypatch.setattr(Progress, "log_if_due", lambda _: 1 / 0)
        with pytest.raises(error):
            run(**{"assignments": rows(1, 2), "context": context, **arguments})
        summary = context["ti"].pushed["return_value"]
        assert (summary["total"], summary["counts"].get("assigned")) == (2, None)
        assert summary["undone"] >= 1
        assert summary["not_done"] == [[1, 2]]

    def test_a_store_that_can_not_be_written_hides_it_neither(self, workspace):
        workspace()
        context = {"ti": Instance(), "task_state_store": BrokenStore("set")}
        with pytest.raises(AirflowException, match="This try has sent nothing"):
            run(rows(1), context)
        assert context["ti"].pushed["return_value"]["undone"] == 1

    def test_a_mapped_task_says_which_of_them_it_is(self, workspace, context):
        workspace()
        assert "map_index" not in run(rows(1), context)
        context["ti"].map_index = 0
        assert run(rows(1), context)["map_index"] == 0


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
