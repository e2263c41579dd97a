from __future__ import annotations

import json
import os
import resource
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath
from fsspec.implementations.memory import MemoryFileSystem

from splashify_provider.bulk.preflight import CheckedRows
from splashify_provider.bulk.report import Report
from splashify_provider.exceptions import SplashifyConfigurationError
from tests.bulk.simulation import assignments
from tests.conftest import ADA, PHONE, number


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new folder" / "report.jsonl"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def outcomes(path):
    return [(line["position"], line["outcome"]) for line in lines(path)]


def write(path, *indexes, phone_numbers="masked"):
    report = Report(str(path), phone_numbers)
    for item in assignments(*indexes):
        report.write(item, "assigned", "done")
    assert report.close() is None


def test_every_row_has_a_line_with_a_masked_number(path):
    write(path, 7)
    (line,) = lines(path)
    moment = datetime.fromisoformat(line.pop("time"))
    assert abs(moment - datetime.now(timezone.utc)) < timedelta(minutes=1)
    assert line == {
        "position": 1,
        "user_phone_number": "…0007",
        "agent_email": ADA,
        "outcome": "assigned",
        "message": "done",
    }


def test_whole_numbers_are_written_by_choice(path):
    write(path, 7, phone_numbers="full")
    assert lines(path)[0]["user_phone_number"] == number(7)


def test_what_is_not_sent_has_a_line_as_well(path):
    first, again, bad, done = assignments(1, 1, 3, 4)
    report, before = Report(str(path), "masked"), [done.ended("assigned", "Done by an earlier try.")]
    report.write_unsent(CheckedRows(duplicates=[(again, first)], invalid=[bad.ended("invalid", "too short")]), before)
    report.close()
    assert outcomes(path) == [(3, "invalid"), (2, "duplicate"), (4, "done_before")]
    assert lines(path)[1]["message"] == "Row 1 says the same of this number."


def test_it_is_there_while_the_batch_runs(path):
    report = Report(str(path), "masked")
    for position, item in enumerate(assignments(*range(30)), 1):
        report.write(item, "assigned", "done")
        assert len(lines(path)) == position


def test_nothing_that_is_there_is_lost(path):
    write(path, 1, 2)
    write(path, 1)
    assert outcomes(path) == [(1, "assigned"), (2, "assigned"), (1, "assigned")]


@pytest.mark.parametrize("half", ['{"position": 1, "outc', b'{"user_phone_number": "\xe2\x80', b"\xff\xfe"])
def test_half_a_line_of_a_killed_worker_spoils_no_other(path, half):
    write(path, 1)
    with path.open("ab") as stream:
        stream.write(half if isinstance(half, bytes) else half.encode())
    write(path, 2)
    before, _, after = path.read_bytes().splitlines()
    assert [json.loads(line)["user_phone_number"] for line in (before, after)] == ["…0001", "…0002"]


def test_a_row_that_is_no_text_is_written_all_the_same(path):
    report = Report(str(path), "full")
    (item,) = assignments(1)
    report.write(item.ended("invalid", "odd \ud800"), "invalid", "odd \ud800")
    assert report.close() is None
    assert outcomes(path) == [(1, "invalid")]


class TestOneThatCanNotBeWritten:
    def test_is_found_out_at_once(self, tmp_path):
        (tmp_path / "file").touch()
        for path in (tmp_path, tmp_path / "file" / "report.jsonl", "s4://bucket/report.jsonl", "a\0b"):
            with pytest.raises(SplashifyConfigurationError, match=r"can't be used: .* Nothing was sent") as raised:
                Report(str(path), "masked")
            assert raised.value.remedy == "Correct report_path, then clear this task."

    @pytest.mark.parametrize("where", ["/dev/full", "/dev/null", "pipe"])
    def test_a_device_or_a_pipe_is_none(self, tmp_path, where):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(SplashifyConfigurationError, match="not a regular file"):
            Report(str(tmp_path / where), "masked")

    def test_a_full_disk_ends_no_batch_and_is_said_once(self, path, caplog):
        report = Report(str(path), "masked")
        with full_disk():
            for item in assignments(*range(5)):
                report.write(item, "assigned", "done")
            assert isinstance(report.close(), OSError)
        assert caplog.text.count("The report could not be written") == 1

    def test_a_disk_that_was_full_for_a_while_is_not_passed_over_in_silence(self, path):
        report = Report(str(path), "masked")
        first, *others = assignments(*range(3000))
        with full_disk():
            for item in others:
                report.write(item, "assigned", "done")
        report.write(first, "assigned", "done")
        assert isinstance(report.close(), OSError)


@contextmanager
def full_disk(size=1):
    """Let this process write to no file beyond such a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_store_that_takes_whole_files_only_has_it_at_the_end():
    try:
        from airflow.sdk.io import attach
    except ImportError:
        from airflow.io.store import attach
    attach("memory", fs=MemoryFileSystem())
    path = "memory://bucket/report.jsonl"
    for index in (1, 2):
        report = Report(path, "masked")
        report.write(assignments(index)[0], "assigned", "done")
        assert ObjectStoragePath(path).read_text().count("\n") == index - 1
        assert report.close() is None
        assert ObjectStoragePath(path).read_text().count("\n") == index
    assert PHONE not in ObjectStoragePath(path).read_text()
