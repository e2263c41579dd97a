"""What it means to the bulk operator that a batch was stopped."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from splashify_provider.bulk.progress import Progress
from splashify_provider.exceptions import AuthenticationError, ServerError
from splashify_provider.operators.splashify import SplashifyBulkAssignOperator
from tests.conftest import rows, shown_in_frames, team
from tests.operators.bulk_task import read, replace_the_key, run


def test_a_key_revoked_before_the_last_rows_fails_the_task_for_good(workspace):
    _, sandbox, posted = workspace()
    replace_the_key(sandbox, posted, after=5)
    with pytest.raises(AirflowFailException, match="3 of 8 .* the batch was stopped.*API key") as raised:
        run(rows(*range(8)), fail_on_partial_error=False, max_in_flight=1)
    assert isinstance(raised.value.__cause__, AuthenticationError)


def test_a_dead_key_is_not_retried_because_something_else_failed_too(workspace):
    _, sandbox, posted = workspace(team(2, n0="server_error"), extra={"max_attempts": 1})
    replace_the_key(sandbox, posted, after=1)
    with pytest.raises(AirflowFailException, match="API key"):
        run(rows(0, 1, 2), max_in_flight=1)


def test_failures_of_the_very_last_rows_stop_a_batch_and_name_the_knob(workspace):
    scenarios = {f"n{index}": "server_error" for index in (5, 6, 7)}
    workspace(team(8, **scenarios), extra={"max_attempts": 1})
    with pytest.raises(
        ServerError, match=r"the batch was stopped\. 3 failures in a row \(max_consecutive_failures=3\)"
    ):
        run(rows(*range(8)), max_in_flight=1, max_consecutive_failures=3, fail_on_partial_error=False)


def test_a_cluster_of_refused_rows_keeps_nobody_else_waiting(workspace, context):
    workspace(team(100, **{f"n{index}": "bad_request" for index in range(10, 25)}))
    with pytest.raises(AirflowFailException, match="15 of 100"):
        run(rows(*range(100)), context)
    summary = context["ti"].pushed["return_value"]
    assert summary["counts"] == {"assigned": 85, "rejected": 15}
    assert summary["not_done"] == [[11, 25]]


class Told(BaseException):
    pass


class TestBeingStopped:
    @pytest.mark.parametrize("how", ["exception", "on_kill"])
    def test_checkpoint_and_report_are_written_and_no_thread_stays(self, workspace, context, tmp_path, log, how):
        _, _, posted = workspace(per_minute=30)  # 30 at once, then a minute of waiting
        threads = threading.active_count()
        operator = SplashifyBulkAssignOperator(
            task_id="assign", assignments=rows(*range(60)), report_path=str(tmp_path / "r.jsonl")
        )

        def told(*_):
            operator.on_kill()
            if how == "exception":
                raise Told

        previous = signal.signal(signal.SIGALRM, told)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        started = time.monotonic()
        try:
            with pytest.raises(Told if how == "exception" else AirflowException):
                operator.execute(context)
        finally:
            signal.signal(signal.SIGALRM, previous)
        assert time.monotonic() - started < 10
        assert threading.active_count() == threads
        assert len(posted) == 30
        assert context["ti"].pushed["return_value"]["not_done"] == [[31, 60]]
        assert "assigned                        30" in log.text
        assert len(read(tmp_path / "r.jsonl")) == 30
        summary = run(rows(*range(30)), context)
        assert (summary["done_before"], len(posted)) == ({"assigned": 30}, 30)

    def test_a_stop_is_noticed_while_rows_are_read(self, workspace):
        _, sandbox, _ = workspace()
        operator = SplashifyBulkAssignOperator(task_id="assign", assignments=[])
        read_so_far = []

        class Rows:
            def __iter__(self):
                for index in range(10_000):
                    read_so_far.append(index)
                    if index == 1500:
                        operator.on_kill()
                    yield rows(index % 1000)[0]

        operator.assignments = Rows()
        with pytest.raises(AirflowException, match="told to stop") as raised:
            operator.execute({})
        assert shown_in_frames(raised.value, "1202555") == []
        assert len(read_so_far) == 2000
        assert not sandbox.workspace.answers

    def test_a_fault_while_an_outcome_is_noted_leaves_no_thread(self, workspace, monkeypatch):
        workspace(latency=0.05)
        threads = threading.active_count()
        monkeypatch.setattr(Progress, "add", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(rows(*range(50)))
        assert threading.active_count() == threads


class TestAnOrphan:
    """A task has a process group of its own: it outlives a worker that is killed, but shall not go on."""

    def test_it_ends_before_the_next_request(self, workspace, context, monkeypatch, log):
        _, sandbox, posted = workspace()
        assign, parent = sandbox.workspace.assign, os.getppid()

        def and_the_worker_is_killed(phone, agent):
            if len(posted) == 20:
                monkeypatch.setattr(os, "getppid", lambda: 1)
            return assign(phone, agent)

        sandbox.workspace.assign = and_the_worker_is_killed
        with pytest.raises(AirflowException, match="process that started this task is gone") as raised:
            run(rows(*range(500)), context)
        assert not isinstance(raised.value, AirflowFailException)
        assert len(posted) <= 20 + 8
        assert "process that started this task is gone" in log.text
        monkeypatch.setattr(os, "getppid", lambda: parent)
        sandbox.workspace.assign = assign
        assert run(rows(*range(500)), context)["counts"]["assigned"] >= 500 - 28
        assert len(posted) == 500

    def test_it_sends_nothing_if_that_happens_while_it_reads(self, workspace, monkeypatch):
        _, sandbox, _ = workspace()

        def many():
            for index in range(5000):
                if index == 10:
                    monkeypatch.setattr(os, "getppid", lambda: 1)
                yield rows(index % 1000)[0]

        with pytest.raises(AirflowException, match="process that started this task is gone"):
            run(many())
        assert not sandbox.workspace.answers
