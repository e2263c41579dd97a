"""What the bulk operator is given, and what it gives."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, BaseHook, ObjectStoragePath

from splashify_provider.exceptions import ServerError
from splashify_provider.operators.splashify import SplashifyBulkAssignOperator
from tests.conftest import ADA, BEN, DAN, number, rows, team
from tests.operators.bulk_task import Instance, Store, run


class TestFiles:
    @pytest.mark.parametrize("way", ["same", "uri", "dots", "link", "path"])
    def test_a_report_never_replaces_the_plan(self, workspace, tmp_path, way):
        _, sandbox, _ = workspace()
        path = tmp_path / "plan.csv"
        path.write_text(f"user_phone_number,agent_email\n+{number(1)},{ADA}\n")
        before = path.read_text()
        (tmp_path / "link").symlink_to(path)
        report = {"uri": path.as_uri(), "dots": f"{tmp_path}/x/../plan.csv", "link": str(tmp_path / "link")}
        with pytest.raises(AirflowFailException, match="report_path is the file of assignments itself"):
            run(Path(path) if way == "path" else f" {path}", report_path=report.get(way, str(path)))
        assert path.read_text() == before
        assert not sandbox.workspace.answers

    @pytest.mark.parametrize(
        "header", ["user_phone_number,agent_email,Agent_Email ", "user_phone_number,USER_PHONE_NUMBER,agent_email"]
    )
    def test_a_column_that_comes_twice_is_refused(self, workspace, tmp_path, header):
        _, sandbox, _ = workspace()
        path = tmp_path / "plan.csv"
        path.write_text(f"{header}\n+{number(1)},{ADA},{BEN}\n")
        with pytest.raises(AirflowFailException, match="more than one column"):
            run(str(path))
        assert not sandbox.workspace.answers

    @pytest.mark.parametrize("missing", ["assignments", "report_path"])
    def test_a_storage_connection_that_is_missing_is_the_one_that_is_named(self, workspace, monkeypatch, missing):
        def no_file_system(self):
            return BaseHook.get_connection("minio_files")

        workspace()
        monkeypatch.setattr(ObjectStoragePath, "fs", property(no_file_system))
        arguments = {"assignments": rows(1), missing: "s3://minio_files@bucket/file"}
        with pytest.raises(AirflowFailException, match="`minio_files` isn't defined: create connection") as raised:
            run(**arguments)
        assert "splashify_default" not in str(raised.value)

    def test_an_open_quote_does_not_swallow_the_rest(self, workspace, tmp_path):
        _, sandbox, _ = workspace()
        path = tmp_path / "plan.csv"
        lines = [f"+{number(index)},{ADA},note" for index in range(10)]
        lines[3] = f'+{number(3)},{ADA},"call back'
        path.write_text("\n".join(["user_phone_number,agent_email,note", *lines]))
        with pytest.raises(AirflowFailException, match="is not CSV"):
            run(str(path))
        assert not sandbox.workspace.answers

    @pytest.mark.parametrize(
        ("row", "changed"),
        [
            (2, f"+{number(1)},{ADA}"),
            (2, f"+12,{ADA}"),
            (2, f"+{number(9)},{ADA}"),
            (2, f"+{number(2)},{BEN}"),
            (5, None),
            (6, f"+{number(9)},{ADA}"),
            (2, b"\xff\xfe"),
        ],
    )
    def test_any_change_between_checking_and_sending_is_noticed(self, workspace, tmp_path, row, changed):
        _, _, posted = workspace()
        path = tmp_path / "plan.csv"
        lines = [b"user_phone_number,agent_email", *(f"+{number(index)},{ADA}".encode() for index in range(1, 6))]
        path.write_bytes(b"\n".join(lines))
        operator = SplashifyBulkAssignOperator(task_id="assign", assignments=str(path))
        send = operator._send

        def change_and_send(*arguments):
            lines[row : row + 1] = [changed.encode() if isinstance(changed, str) else changed] if changed else []
            path.write_bytes(b"\n".join(lines))
            send(*arguments)

        operator._send = change_and_send
        with pytest.raises(AirflowFailException) as raised:
            operator.execute({})
        assert "have changed since they were checked" in str(raised.value) or "not UTF-8" in str(raised.value)
        assert "Nothing was sent" not in str(raised.value)
        assert set(posted) <= {(number(index), ADA) for index in range(1, 6)}

    @pytest.mark.parametrize("how", ["path", "storage path", "uri"])
    def test_a_path_may_be_given_as_whatever_is_one(self, workspace, tmp_path, how):
        workspace()
        path = tmp_path / "plan.csv"
        path.write_text(f"user_phone_number,agent_email\n+{number(1)},{ADA}\n")
        given = {"path": path, "storage path": ObjectStoragePath(f"file://{path}"), "uri": path.as_uri()}[how]
        assert run(given)["counts"] == {"assigned": 1}

    def test_a_folder_is_no_file(self, workspace, tmp_path):
        workspace()
        with pytest.raises(AirflowFailException, match="is a directory"):
            run(str(tmp_path))

    def test_other_columns_may_come_twice(self, workspace, tmp_path):
        workspace()
        path = tmp_path / "plan.csv"
        path.write_text(f"note,user_phone_number,agent_email,note\n,+{number(1)},{ADA},\n")
        assert run(str(path))["total"] == 1

    def test_json_text_may_begin_with_a_byte_order_mark(self, workspace):
        workspace()
        assert run("\ufeff" + json.dumps(rows(1, 2)))["total"] == 2


class TestXCom:
    def test_nothing_is_pushed_where_that_is_not_wanted(self, workspace):
        workspace()
        ti = Instance()
        with pytest.raises(AirflowFailException):
            run(rows(1, agent=DAN), {"ti": ti}, do_xcom_push=False)
        assert ti.pushed == {}

    def test_a_push_that_fails_does_not_hide_why_the_task_does(self, workspace, log):
        workspace(team(n1="server_error"), extra={"max_attempts": 1})
        ti = Instance()

        def broken(**_):
            raise RuntimeError("API server is away")

        ti.xcom_push = broken
        with pytest.raises(ServerError, match="1 of 1"):
            run(rows(1), {"ti": ti})
        assert "could not be pushed" in log.text


class TestBeingKilledWhileReading:
    def test_the_first_reading_ends_soon(self, workspace):
        _, sandbox, _ = workspace()
        read = []

        def many():
            for index in range(10_000):
                read.append(index)
                if index == 1500:
                    operator.on_kill()
                yield rows(index % 1000)[0]

        class Rows:
            def __iter__(self):
                return many()

        operator = SplashifyBulkAssignOperator(task_id="assign", assignments=[])
        operator.assignments = Rows()
        with pytest.raises(AirflowException, match="told to stop"):
            operator.execute({})
        assert len(read) == 2000
        assert not sandbox.workspace.answers

    def test_so_does_skipping_what_is_done(self, workspace):
        workspace(team(3000))
        context = {"ti": Instance(), "task_state_store": Store()}
        with pytest.raises(AirflowFailException):
            run([*rows(*range(3000)), *rows(3000, agent=DAN)], context)
        operator = SplashifyBulkAssignOperator(task_id="assign", assignments=rows(*range(3000)))
        send = operator._send

        def killed_before_sending(*arguments):
            operator.on_kill()
            send(*arguments)

        operator._send = killed_before_sending
        with pytest.raises(AirflowException, match="told to stop"):
            operator.execute(context)


class TestInputs:
    WAYS = ("list", "tuple", "generator", "json", "jsonl", "csv", "semicolons", "excel", "uri")

    @pytest.mark.parametrize("way", WAYS)
    def test_a_list_json_text_and_files_mean_the_same(self, workspace, tmp_path, way):
        _, _, posted = workspace()
        plan = [{**row, "reason": "whatever; else"} for row in rows(*range(20))]
        path = tmp_path / ("plan.csv" if way in ("csv", "semicolons", "excel") else "plan.jsonl")
        if way in ("csv", "semicolons", "excel"):
            with path.open("w", newline="", encoding="utf-8-sig" if way == "excel" else "utf-8") as stream:
                separator = {"csv": ",", "semicolons": ";", "excel": "\t"}[way]
                writer = csv.DictWriter(stream, plan[0], delimiter=separator)
                writer.writeheader()
                writer.writerows(plan)
        else:
            path.write_text("\n".join(json.dumps(row) for row in plan) + "\n\n")
        given = {
            "list": plan,
            "tuple": tuple(plan),
            "generator": (row for row in plan),
            "json": f" {json.dumps(plan)}\n",
            "uri": path.as_uri(),
        }
        assert run(given.get(way, str(path)))["counts"] == {"assigned": 20}
        assert sorted(posted) == [(number(index), ADA) for index in range(20)]

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            ("phone,agent\n1,2\n", "no column user_phone_number and no column agent_email"),
            ("", "no column"),
            ("user_phone_number,agent_email\n+12025550001\n", "Row 1 .*e-mail is missing"),
            ('{"user_phone_number": "+12025550001", "agent_email": "ada@example.com"}\n{"user\n', "Row 2"),
            (b"user_phone_number,agent_email\n\xff\xfe,x\n", "not UTF-8"),
            (None, "does not exist"),
        ],
    )
    def test_a_file_that_cannot_be_read_is_an_error_that_says_why(self, workspace, tmp_path, content, why):
        _, sandbox, _ = workspace()
        path = tmp_path / "plan"
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(AirflowFailException, match=why):
            run(str(path))
        assert not sandbox.workspace.answers

    @pytest.mark.parametrize(
        ("given", "why"),
        [
            (None, "not NoneType"),
            ("", "neither JSON nor a path"),
            ("None", "neither JSON nor a path"),
            (str(rows(1)), "tojson"),
            ('{"user_phone_number": "1"}', "not a JSON list"),
            (rows(1)[0], "a list of rows"),
            (7, "not int"),
        ],
    )
    def test_anything_else_is_refused_with_a_hint(self, workspace, given, why):
        workspace()
        with pytest.raises(AirflowFailException, match=why):
            run(given)

    def test_a_file_that_changes_while_it_is_sent_is_noticed(self, workspace, tmp_path):
        _, _, posted = workspace()
        path = tmp_path / "plan.csv"
        lines = ["user_phone_number,agent_email", *(f"+{number(index)},{ADA}" for index in range(20))]
        path.write_text("\n".join(lines))
        operator = SplashifyBulkAssignOperator(task_id="assign", assignments=str(path))
        send = operator._send

        def change_and_send(*arguments):
            path.write_text("\n".join([*lines[:10], f"+{number(3)},{BEN}"]))
            send(*arguments)

        operator._send = change_and_send
        with pytest.raises(AirflowFailException, match=r"have changed since they were checked \(row 10\)"):
            operator.execute({})
        assert BEN not in {agent for _, agent in posted}

    def test_templates_are_rendered_natively_and_as_text(self, workspace):
        workspace()
        operator = SplashifyBulkAssignOperator(
            task_id="assign", assignments="{{ plan | tojson }}", report_path="{{ folder }}/{{ run_id }}.jsonl"
        )
        operator.render_template_fields({"plan": rows(1, 2), "folder": "/reports", "run_id": "r1"})
        assert operator.report_path == "/reports/r1.jsonl"
        operator.report_path = None
        assert operator.execute({})["total"] == 2
