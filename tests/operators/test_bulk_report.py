"""The bulk operator's report."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta, timezone

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from splashify_provider.bulk import report
from splashify_provider.exceptions import ServerError
from tests.conftest import ADA, DAN, number, rows, team
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

    def test_a_positions_last_line_is_about_its_row_also_after_the_list_has_changed(self, workspace, context, tmp_path):
        workspace()
        path = tmp_path / "r.jsonl"
        with pytest.raises(AirflowFailException):
            run([*rows(1, 2), *rows(3, agent=DAN)], context, report_path=str(path))
        run([*rows(3), *rows(1, 2)], context, report_path=str(path))
        last = {line["position"]: (line["user_phone_number"], line["outcome"]) for line in read(path)}
        assert last == {1: ("…0003", "assigned"), 2: ("…0001", "done_before"), 3: ("…0002", "done_before")}

    def test_one_that_can_not_be_written_is_found_out_before_anything_is_sent(self, workspace, tmp_path):
        _, sandbox, _ = workspace()
        (tmp_path / "file").touch()
        for path in (tmp_path, tmp_path / "file" / "report.jsonl"):
            with pytest.raises(AirflowFailException, match=r"can't be used: .* Nothing was sent. Correct report_path"):
                run(rows(1), report_path=str(path))
        assert not sandbox.workspace.answers

    def test_wrong_arguments_leave_it_alone(self, workspace, tmp_path):
        workspace()
        path = tmp_path / "r.jsonl"
        path.write_text("of an earlier run\n")
        with pytest.raises(AirflowFailException, match="max_in_flight"):
            run(rows(1), report_path=str(path), max_in_flight=0)
        assert path.read_text() == "of an earlier run\n"

    def test_a_full_disk_ends_no_batch_but_the_task_says_so(self, workspace, context, caplog):
        _, _, posted = workspace()
        with pytest.raises(AirflowException, match="Everything is done, but the report /dev/full could not"):
            run(rows(*range(20)), context, report_path="/dev/full")
        assert len(posted) == 20
        assert caplog.text.count("the batch goes on") == 1

    @pytest.mark.parametrize("content", [b'{"position": 1, "user_phone_number": "\xe2\x80', b"\xff\xfe\n"])
    def test_one_that_was_cut_off_within_a_character_hinders_no_retry(self, workspace, old_airflow, tmp_path, content):
        _, _, posted = workspace()
        path = tmp_path / "r.jsonl"
        with pytest.raises(AirflowFailException):
            run([*rows(1, 2), *rows(3, agent=DAN)], old_airflow, report_path=str(path))
        with path.open("ab") as stream:
            stream.write(content)
        assert run(rows(1, 2, 3), old_airflow, report_path=str(path))["done_before"] == 2
        assert len(posted) == 4

    def test_a_row_that_is_no_text_is_written_all_the_same(self, workspace, tmp_path):
        _, _, posted = workspace()
        odd = {"user_phone_number": "+12025550003\ud800", "agent_email": ADA}
        (tmp_path / "plan.jsonl").write_text("\n".join(map(json.dumps, [*rows(1), odd, *rows(2)])))
        for numbers in ("masked", "full"):
            path = tmp_path / numbers
            run(str(tmp_path / "plan.jsonl"), on_invalid="skip", report_path=str(path), report_phone_numbers=numbers)
            assert sorted(line["outcome"] for line in read(path)) == ["assigned", "assigned", "invalid"]
        assert len(posted) == 4

    def test_an_invalid_row_says_nothing_of_the_number_it_resembles(self, workspace, old_airflow, tmp_path):
        _, _, posted = workspace()
        bad = {"user_phone_number": number(1), "agent_email": ""}
        for _ in range(2):
            with pytest.raises(AirflowFailException):
                run(
                    [*rows(1), bad, *rows(3, agent=DAN)],
                    old_airflow,
                    on_invalid="skip",
                    report_path=str(tmp_path / "r.jsonl"),
                )
        assert len(posted) == 2 + 1  # the first once, the last twice

    def test_it_is_there_while_the_batch_runs(self, workspace, tmp_path, monkeypatch):
        workspace()
        path, seen = tmp_path / "r.jsonl", []
        write = report.Report.write

        def write_and_look(self, outcome):
            write(self, outcome)
            seen.append(len(read(path)))

        monkeypatch.setattr(report.Report, "write", write_and_look)
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
        monkeypatch.setattr(report, "_SECONDS_BETWEEN_UPLOADS", 0.0)
        assert run(rows(*range(5)), old_airflow, report_path=path)["done_before"] == 4
        assert ObjectStoragePath(path).read_text().count("\n") == 5 + 5 + 1  # and the end


def test_a_report_that_takes_long_to_upload_is_uploaded_less_often(tmp_path, monkeypatch):
    it = report.Report(str(tmp_path / "r.jsonl"), "masked", b"secret")
    it._is_local = False
    it.open(append=False, outdated=[])
    ticks = iter([1000.0, 1007.0])
    monkeypatch.setattr(report.time, "monotonic", lambda: next(ticks))
    it._upload()
    monkeypatch.undo()
    assert it._upload_at == 1007 + 20 * 7
    it._upload()
    assert 25 < it._upload_at - time.monotonic() <= 30
    it.close()
