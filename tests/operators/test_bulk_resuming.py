"""What the bulk operator remembers between tries, and when it forgets."""

from __future__ import annotations

import contextlib
import json
from datetime import datetime, timedelta, timezone

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSkipException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splashify_provider.bulk import record, report
from splashify_provider.exceptions import ServerError
from splashify_provider.hooks import batch
from splashify_provider.hooks.batch import Assignment
from tests.conftest import ADA, BEN, DAN, number, rows, team
from tests.operators.bulk_task import Instance, Store, read, replace_the_key, run


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

    def again(assignments, more=None, **arguments):
        return run(assignments, {**context, **(more or {})}, report_path=str(path), **arguments)

    return again


def _and_then_no_more_writing(patch):
    """Have a batch begin as ever, and the state store take nothing any more."""
    run_batch = batch.Batch.run

    def run_without_store(self, items):
        patch.setattr(Store, "set", lambda *_: None)
        return run_batch(self, items)

    return run_without_store


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
            patch.setattr(batch.Batch, "run", _and_then_no_more_writing(patch))
            patch.setattr(report.Report, "write", lambda *_: None)
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


class TestChangingOnesMind:
    def test_customers_without_a_conversation_are_done_only_where_they_are_skipped(self, workspace, again):
        workspace(team(5))
        with pytest.raises(AirflowFailException):
            again([*rows(9, 1), *rows(3, agent=DAN)], on_conversation_not_found="skip")
        with pytest.raises(AirflowFailException, match=r"1 of 2 .* \(1 conversation_not_found\)"):
            again(rows(9, 1), on_conversation_not_found="fail")

    def test_a_retry_that_is_too_old_fails_where_an_earlier_try_has_sent_a_part(self, workspace, again):
        workspace()
        due = {"data_interval_end": datetime.now(timezone.utc) - timedelta(hours=9)}
        with pytest.raises(AirflowFailException):
            again([*rows(1, 2), *rows(3, agent=DAN)])
        with pytest.raises(AirflowFailException, match=r"An earlier try has sent a part.* 9 h ago"):
            again(rows(1, 2, 3), due, max_run_age=timedelta(hours=8))
        again(rows(1, 2, 3))
        with pytest.raises(AirflowSkipException):
            again(rows(1, 2, 3), due, max_run_age=timedelta(hours=8))

    def test_part_of_it_is_enough_where_that_was_said_also_if_an_earlier_try_did_it(self, workspace, again):
        workspace()
        with pytest.raises(AirflowFailException):
            again([*rows(1), *rows(3, agent=DAN)])
        assert again([*rows(1), *rows(3, agent=DAN)], fail_on_partial_error=False)["done_before"] == 1


class TestStoresThatFail:
    def test_one_that_can_not_note_what_changes_sends_nothing(self, workspace):
        _, sandbox, posted = workspace()
        store = BrokenStore()
        context = {"ti": Instance(), "task_state_store": store}
        bad = rows(3, agent=DAN)
        with pytest.raises(AirflowFailException):
            run([*rows(1, 2), *bad], context)
        posted.clear()
        store.broken.add("set")
        with pytest.raises(AirflowException, match="1 of the assignments .* another agent now") as raised:
            run([*rows(1, agent=BEN), *rows(2), *bad], context)
        assert not isinstance(raised.value, AirflowFailException)
        assert posted == []
        store.broken.clear()
        assert run(rows(1, 2), context)["done_before"] == 2
        assert sandbox.workspace.conversations[number(1)].agent_email == ADA

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

        monkeypatch.setattr(report.Report, "write", recover)
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


class TestResuming:
    def test_a_retry_sends_only_what_is_not_done(self, workspace, context):
        _, sandbox, posted = workspace(team(n30="server_error", n31="bad_request"))
        with pytest.raises(ServerError):
            run(rows(*range(60)), context)
        assert len(posted) == 58
        sandbox.workspace.scenarios.clear()
        summary = run(rows(*range(60)), context)
        assert summary["done_before"] == 58
        assert summary["counts"] == {"assigned": 2}
        assert sorted(posted[58:]) == [(number(30), ADA), (number(31), ADA)]

    def test_a_batch_that_finished_forgets_so_clearing_it_sends_everything_again(self, workspace, context):
        _, _, posted = workspace()
        for _ in range(2):
            assert run(rows(*range(20)), context)["done_before"] == 0
        assert len(posted) == 40
        assert context["task_state_store"] == {}

    def test_it_goes_by_number_and_agent_never_by_position(self, workspace, context):
        _, sandbox, posted = workspace(team(n5="server_error"))
        with pytest.raises(ServerError):
            run(rows(*range(10)), context)
        sandbox.workspace.scenarios.clear()
        posted.clear()
        changed = [*rows(9, 8), *rows(2, agent=BEN), *rows(20, 5, 1)]
        assert run(changed, context)["done_before"] == 3
        assert sorted(posted) == [(number(2), BEN), (number(5), ADA), (number(20), ADA)]

    def test_a_new_key_sends_everything_again(self, workspace, context, connect):
        _, sandbox, posted = workspace()
        replace_the_key(sandbox, posted, after=20)
        with pytest.raises(AirflowFailException, match="API key"):
            run(rows(*range(50)), context)
        before = len(posted)
        assert 20 <= before <= 30
        connect(sandbox.base_url, password="sk_live_new", extra={"requests_per_minute": 100_000})
        assert run(rows(*range(50)), context)["done_before"] == 0
        assert len(posted) == before + 50

    def test_the_store_holds_no_number_and_small_values(self, workspace, context):
        workspace(team(3000, n2999="bad_request"))
        with pytest.raises(AirflowFailException):
            run(rows(*range(3000)), context)
        store = context["task_state_store"]
        assert len(store) == 3
        assert not any(number(index) in value for value in store.values() for index in (0, 1, 2))

    def test_it_is_saved_in_chunks_and_at_least_every_few_seconds(self, workspace, context, monkeypatch):
        saved, store = [], context["task_state_store"]
        store.set = lambda key, value: saved.append(len(value)) or Store.set(store, key, value)
        workspace()
        run(rows(*range(1000)), context)
        assert 5 <= len(saved) <= 8
        saved.clear()
        monkeypatch.setattr(record, "_SECONDS_BETWEEN_SAVES", 0.0)
        monkeypatch.setattr(batch, "_SECONDS_BETWEEN_IDLE_CALLS", 0.0)
        run(rows(*range(50)), context)
        assert len(saved) > 20

    def test_a_store_that_fails_does_not_stop_the_batch(self, workspace, context, log):
        def broken(*_):
            raise RuntimeError("API server is away")

        workspace()
        context["task_state_store"].set = broken
        assert run(rows(*range(300)), context)["counts"] == {"assigned": 300}
        assert "checkpoint could not be saved" in log.text

    def test_an_older_airflow_resumes_from_the_report(self, workspace, old_airflow, tmp_path):
        _, sandbox, posted = workspace(team(n30="server_error"))
        path = tmp_path / "r.jsonl"
        with pytest.raises(ServerError):
            run(rows(*range(60)), old_airflow, report_path=str(path))
        with path.open("a") as stream:
            stream.write('{"position": 31, "outc')  # killed within a line
        sandbox.workspace.scenarios.clear()
        assert run(rows(*range(60)), old_airflow, report_path=str(path))["done_before"] == 59
        assert len(posted) == 60
        assert len(read(path)) == 120  # both tries, every line whole
        assert run(rows(*range(60)), old_airflow, report_path=str(path))["done_before"] == 0
        assert len(posted) == 120

    def test_an_older_airflow_without_a_report_sends_everything_again(self, workspace, old_airflow):
        _, sandbox, posted = workspace(team(n30="server_error"))
        with pytest.raises(ServerError):
            run(rows(*range(60)), old_airflow)
        sandbox.workspace.scenarios.clear()
        assert run(rows(*range(60)), old_airflow)["done_before"] == 0
        assert len(posted) == 59 + 60

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.sampled_from(["fine", "server_error:3", "bad_request:1"]), min_size=1, max_size=30))
    def test_whatever_fails_the_tries_together_send_each_exactly_once(self, workspace, fates):
        scenarios = {f"n{index}": fate for index, fate in enumerate(fates) if fate != "fine"}
        _, _, posted = workspace(team(30, **scenarios))
        context = {"ti": Instance(), "task_state_store": Store()}
        for _ in range(2):
            try:
                run(rows(*range(len(fates))), context, max_consecutive_failures=1000)
            except (AirflowException, ServerError):
                continue
            break
        assert sorted(posted) == [(number(index), ADA) for index in range(len(fates))]
