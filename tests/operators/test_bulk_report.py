"""The bulk operator's report."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from splashify_provider.bulk import record
from splashify_provider.exceptions import ServerError
from tests.conftest import DAN, number, rows, team
from tests.operators.bulk_task import Instance, read, run


class TestReport:
    def test_every_item_has_a_line_with_a_masked_number(self, workspace, context, tmp_path):
        workspace()
        path = tmp_path / "new" / "report.jsonl"
        with pytest.raises(AirflowFailException):
            run([*rows(1, 2), *rows(3, agent=DAN)], context, report_path=str(path))
        lines = {line["position"]: line for line in read(path)}
        assert [lines[position]["outcome"] for position in (1, 2, 3)] == ["assigned", "assigned", "agent_inactive"]
        assert lines[1]["user_phone_number"] == "…0001"
        assert lines[3]["agent_email"] == DAN
        assert "Agent inactive" in lines[3]["message"]
        assert abs(datetime.fromisoformat(lines[1]["time"]) - datetime.now(timezone.utc)) < timedelta(minutes=1)
        assert "12025550" not in path.read_text()

    def test_whole_numbers_are_written_by_choice(self, workspace, tmp_path):
        workspace()
        run(rows(1), report_path=str(tmp_path / "r.jsonl"), report_phone_numbers="full")
        assert read(tmp_path / "r.jsonl")[0]["user_phone_number"] == number(1)

    def test_every_duplicate_has_a_line_that_names_its_row_and_a_retry_is_not_misled_by_it(
        self, workspace, old_airflow, tmp_path
    ):
        _, _, posted = workspace()
        path = tmp_path / "r.jsonl"
        for _ in range(2):
            with pytest.raises(AirflowFailException):
                run([*rows(1, 2, 1), *rows(3, agent=DAN)], old_airflow, report_path=str(path))
        line = next(line for line in read(path) if line["position"] == 3)
        assert (line["user_phone_number"], line["outcome"]) == ("…0001", "duplicate")
        assert line["message"] == "Row 1 gives the same number to the same agent."
        assert {line["position"] for line in read(path)} == {1, 2, 3, 4}
        assert len(posted) == 4

    def test_it_is_there_while_the_batch_runs(self, workspace, tmp_path, monkeypatch):
        workspace()
        path, seen = tmp_path / "r.jsonl", []
        write = record.Report.write

        def write_and_look(self, outcome):
            write(self, outcome)
            seen.append(len(read(path)))

        monkeypatch.setattr(record.Report, "write", write_and_look)
        run(rows(*range(30)), report_path=str(path))
        assert seen == list(range(1, 31))

    def test_another_runs_report_is_replaced(self, workspace, tmp_path):
        workspace()
        for run_id in ("one", "two"):
            ti = Instance()
            ti.run_id = run_id
            run(rows(*range(3)), {"ti": ti}, report_path=str(tmp_path / "r.jsonl"))
        assert len(read(tmp_path / "r.jsonl")) == 3

    def test_a_store_that_takes_whole_files_only_has_it_at_the_end(self, workspace, old_airflow, monkeypatch):
        from airflow.providers.common.compat.sdk import ObjectStoragePath
        from fsspec.implementations.memory import MemoryFileSystem

        try:
            from airflow.sdk.io import attach
        except ImportError:
            from airflow.io.store import attach
        attach("memory", fs=MemoryFileSystem())
        workspace(team(n3="server_error:3"))
        path = "memory://bucket/report.jsonl"
        with pytest.raises(ServerError):
            run(rows(*range(5)), old_airflow, report_path=path)
        assert ObjectStoragePath(path).read_text().count("\n") == 5
        monkeypatch.setattr(record, "_SECONDS_BETWEEN_UPLOADS", 0.0)
        assert run(rows(*range(5)), old_airflow, report_path=path)["done_before"] == 4
        assert ObjectStoragePath(path).read_text().count("\n") == 5 + 1 + 1  # and the end


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
