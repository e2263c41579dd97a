"""What the bulk operator is given, and where it writes to."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, BaseHook, ObjectStoragePath

from splashify_provider.bulk import record
from splashify_provider.exceptions import ServerError
from splashify_provider.operators.splashify import SplashifyBulkAssignOperator
from tests.conftest import ADA, BEN, DAN, number, rows, team
from tests.operators.test_bulk import Instance, Store, run


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


def test_a_report_that_takes_long_to_upload_is_uploaded_less_often(tmp_path, monkeypatch):
    report = record.Report(str(tmp_path / "r.jsonl"), "masked", b"secret")
    report._is_local = False
    report.open(append=False, outdated=[])
    ticks = iter([1000.0, 1007.0])
    monkeypatch.setattr(record.time, "monotonic", lambda: next(ticks))
    report._upload(report._stream)
    monkeypatch.undo()
    assert report._upload_at == 1007 + 20 * 7
    report._upload(report._stream)
    assert 25 < report._upload_at - time.monotonic() <= 30
    report.close()
