"""What it means to the bulk operator that a batch was stopped."""

from __future__ import annotations

import signal
import threading
import time

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from splashify_provider.bulk import progress, record
from splashify_provider.exceptions import AuthenticationError, ServerError
from splashify_provider.hooks import batch
from splashify_provider.operators.splashify import SplashifyBulkAssignOperator
from tests.conftest import number, rows, team
from tests.operators.bulk_task import Instance, read, replace_the_key, run


def test_a_key_revoked_before_the_last_rows_fails_the_task_for_good(workspace):
    _, sandbox, posted = workspace()
    replace_the_key(sandbox, posted, after=5)
    with pytest.raises(AirflowFailException, match="3 of 8 .* the batch was stopped.*API key") as raised:
        run(rows(*range(8)), fail_on_partial_error=False, max_in_flight=1)
    assert isinstance(raised.value.__cause__, AuthenticationError)


def test_a_dead_key_is_not_retried_because_something_else_failed_too(workspace, monkeypatch):
    hook, _, _ = workspace(extra={"max_attempts": 1})

    def exchange(_, phone, __):
        raise ServerError(500, "down") if phone == number(0) else AuthenticationError(401, "revoked")

    monkeypatch.setattr(type(hook), "_exchange", exchange)
    with pytest.raises(AirflowFailException, match="revoked"):
        run(rows(0, 1), max_in_flight=1)


def test_failures_of_the_very_last_rows_stop_a_batch_and_name_the_knob(workspace):
    scenarios = {f"n{index}": "server_error" for index in (5, 6, 7)}
    workspace(team(8, **scenarios), extra={"max_attempts": 1})
    with pytest.raises(
        ServerError, match=r"the batch was stopped\. 3 failures in a row \(max_consecutive_failures=3\)"
    ):
        run(rows(*range(8)), max_in_flight=1, max_consecutive_failures=3, fail_on_partial_error=False)


def test_a_cluster_of_refused_rows_keeps_nobody_else_waiting(workspace):
    workspace(team(100, **{f"n{index}": "bad_request" for index in range(10, 25)}))
    ti = Instance()
    with pytest.raises(AirflowFailException, match="15 of 100"):
        run(rows(*range(100)), {"ti": ti})
    assert ti.pushed["return_value"]["counts"] == {"assigned": 85, "rejected": 15}


def test_what_was_not_attempted_is_counted_in_the_log_not_listed(workspace, connect, log):
    _, sandbox, _ = workspace()
    connect(sandbox.base_url, password="sk_live_old")
    with pytest.raises(AirflowFailException):
        run(rows(*range(50)), max_in_flight=1)
    assert "not_attempted                   49" in log.text
    assert "not_attempted: " not in log.text


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
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        started = time.monotonic()
        try:
            with pytest.raises(Told if how == "exception" else AirflowException):
                operator.execute(context)
        finally:
            signal.signal(signal.SIGALRM, previous)
        assert time.monotonic() - started < 10
        assert threading.active_count() == threads
        assert len(posted) == 30
        assert "assigned                        30" in log.text
        assert len(read(tmp_path / "r.jsonl")) == 30
        assert len("".join(context["task_state_store"].values())) == 22 * 30

    def test_a_fault_while_an_outcome_is_noted_leaves_no_thread(self, workspace, monkeypatch):
        workspace(latency=0.05)
        threads = threading.active_count()
        monkeypatch.setattr(progress.Progress, "add", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(rows(*range(50)))
        assert threading.active_count() == threads

    def test_the_chunk_includes_what_is_in_flight(self, workspace, context, monkeypatch):
        store, lost = context["task_state_store"], []
        _, _, posted = workspace()
        monkeypatch.setattr(record, "_SECONDS_BETWEEN_SAVES", 1e9)
        write = batch.Batch._settle

        def settle(self, job, answer):
            lost.append(len(posted) - len("".join(store.values())) // 22)
            return write(self, job, answer)

        monkeypatch.setattr(batch.Batch, "_settle", settle)
        run(rows(*range(1000)), context)
        assert max(lost) <= record.CHUNK
