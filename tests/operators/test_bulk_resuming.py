"""What the bulk operator remembers between tries, and when it forgets."""

from __future__ import annotations

import contextlib
import json

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from splashify_provider.bulk import record
from splashify_provider.exceptions import ServerError
from splashify_provider.hooks.batch import Assignment
from tests.conftest import ADA, BEN, DAN, number, rows, team
from tests.operators.test_bulk import Instance, Store, run


class BrokenStore(Store):
    """A state store some of whose methods fail, and which counts its calls."""

    def __init__(self, *broken):
        super().__init__()
        self.broken, self.calls = set(broken), []

    def _called(self, name):
        self.calls.append(name)
        if name in self.broken:
            raise RuntimeError("API server is away")

    def get(self, key, default=None):
        self._called("get")
        return super().get(key, default)

    def set(self, key, value):
        self._called("set")
        super().set(key, value)

    def clear(self):
        self._called("clear")
        super().clear()


@pytest.fixture(params=["state store", "report"])
def again(request, tmp_path):
    """Give a function that is one try of always the same task."""
    context = {"ti": Instance()} | ({"task_state_store": Store()} if request.param == "state store" else {})
    path = tmp_path / "report.jsonl"

    def again(assignments, **arguments):
        return run(assignments, context, report_path=str(path), **arguments)

    return again


class TestAgents:
    def test_the_last_agent_of_a_number_counts_not_all_it_ever_had(self, workspace, again):
        _, sandbox, _ = workspace()
        for agent in (ADA, BEN):
            with pytest.raises(AirflowFailException, match="1 of 3"):
                again([*rows(1, agent=agent), *rows(2), *rows(3, agent=DAN)])
        summary = again([*rows(1, agent=ADA), *rows(2)])
        assert summary["done_before"] == 1
        assert {sandbox.workspace.conversations[number(index)].agent_email for index in (1, 2)} == {ADA}

    def test_a_request_that_failed_may_have_arrived_so_its_number_is_not_done_any_more(self, workspace, again):
        _, sandbox, posted = workspace()
        with pytest.raises(AirflowFailException):
            again([*rows(1, 2), *rows(3, agent=DAN)])
        sandbox.workspace.scenarios[number(1)] = "server_error"
        with pytest.raises(ServerError):
            again([*rows(1, agent=BEN), *rows(2)])
        sandbox.workspace.scenarios.clear()
        posted.clear()
        assert again(rows(1, 2))["done_before"] == 1
        assert posted == [(number(1), ADA)]

    def test_a_worker_killed_right_after_sending_has_forgotten_what_it_changed(self, workspace, again, monkeypatch):
        _, sandbox, posted = workspace()
        with pytest.raises(AirflowFailException):
            again([*rows(1, 2), *rows(3, agent=DAN)])
        with monkeypatch.context() as patch:  # nothing is written once requests are out
            patch.setattr(record.Checkpoint, "add", lambda *_: None)
            patch.setattr(record.Report, "write", lambda *_: None)
            with contextlib.suppress(AirflowException):
                again([*rows(1, agent=BEN), *rows(2), *rows(3, agent=DAN)])
        assert sandbox.workspace.conversations[number(1)].agent_email == BEN
        posted.clear()
        assert again(rows(1, 2))["done_before"] == 1
        assert posted == [(number(1), ADA)]


class TestFinishing:
    def test_clearing_a_success_sends_everything_again_even_a_partial_one(self, workspace, again):
        _, _, posted = workspace()
        for _ in range(2):
            summary = again([*rows(1, 2), *rows(3, agent=DAN)], fail_on_partial_error=False)
            assert summary["done_before"] == 0
        assert len(posted) == 6

    def test_clearing_a_failure_whose_bad_row_was_removed_sends_nothing_again(self, workspace, again):
        _, _, posted = workspace()
        with pytest.raises(AirflowFailException):
            again([*rows(1, 2), *rows(3, agent=DAN)])
        assert again(rows(1, 2))["done_before"] == 2
        assert len(posted) == 3  # the bad one among them
        assert again(rows(1, 2))["done_before"] == 0

    def test_another_tasks_end_in_the_same_report_means_nothing(self, workspace, tmp_path):
        workspace()
        path, ti = tmp_path / "r.jsonl", Instance()
        with pytest.raises(AirflowFailException):
            run([*rows(1, 2), *rows(3, agent=DAN)], {"ti": ti}, report_path=str(path))
        with path.open("a") as stream:
            stream.write(json.dumps({"outcome": "finished", "key": "ab" * 11}) + "\n")
        assert run(rows(1, 2), {"ti": ti}, report_path=str(path))["done_before"] == 2


class TestStoresThatFail:
    def test_one_that_refuses_writes_is_asked_twice_not_for_every_row(self, workspace, caplog):
        workspace()
        store = BrokenStore("set")
        assert run(rows(*range(1000)), {"task_state_store": store})["counts"] == {"assigned": 1000}
        assert store.calls.count("set") <= 2
        assert caplog.text.count("could not be saved") == 1

    def test_one_that_recovers_has_everything(self, workspace, caplog, monkeypatch, tmp_path):
        monkeypatch.setattr(record, "_SECONDS_AFTER_A_FAILED_SAVE", 0.0)
        workspace()
        store = BrokenStore("set")
        sent = []

        def recover(self, outcome):
            sent.append(outcome)
            if len(sent) == 500:
                store.broken.clear()

        monkeypatch.setattr(record.Report, "write", recover)
        context = {"task_state_store": store}
        with pytest.raises(AirflowFailException):
            run([*rows(*range(900)), *rows(901, agent=DAN)], context, report_path=str(tmp_path / "r.jsonl"))
        assert len("".join(store.values())) == 22 * 900
        assert caplog.text.count("could not be saved") == 1

    def test_a_complete_batch_is_green_though_its_checkpoint_stays(self, workspace, log):
        workspace()
        assert run(rows(1, 2), {"task_state_store": BrokenStore("clear")})["counts"] == {"assigned": 2}
        assert "could not be removed" in log.text

    def test_one_that_cannot_be_read_sends_everything_again_and_keeps_nothing_old(self, workspace, log):
        workspace(team(1500))
        store = BrokenStore()
        context = {"task_state_store": store}
        bad = rows(1500, agent=DAN)
        with pytest.raises(AirflowFailException):
            run([*rows(*range(1500)), *bad], context)
        store.broken.add("get")
        with pytest.raises(AirflowFailException):
            run([*rows(*range(20), agent=BEN), *bad], context)
        assert "could not be read" in log.text
        store.broken.clear()
        assert run(rows(*range(20), agent=ADA), context)["done_before"] == 0

    def test_what_is_no_checkpoint_is_nothing_done(self, workspace):
        workspace()
        store = Store(splashify_done_0="not a checkpoint")
        assert run(rows(1), {"task_state_store": store})["counts"] == {"assigned": 1}


def test_the_checkpoint_tells_nothing_to_those_without_the_key(workspace):
    hook, _, _ = workspace()
    store = Store()
    context = {"ti": Instance(), "task_state_store": store}
    with pytest.raises(AirflowFailException):
        run([*rows(1), *rows(2, agent=DAN)], context)
    key = record.key_of(Assignment(1, number(1), ADA), hook.fingerprint("d/r/t/-1"))
    assert "".join(store.values()) == key
