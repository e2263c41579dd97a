"""What the bulk operator remembers between tries, and when it forgets."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta, timezone

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSkipException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splashify_provider.exceptions import ServerError
from tests.bulk.test_checkpoint import BrokenStore
from tests.conftest import ADA, BEN, DAN, number, rows, team
from tests.operators.bulk_task import Instance, Store, replace_the_key, run

BAD = rows(3, agent=DAN)


@pytest.fixture
def again(context):
    """Give a function that is one try of always the same task."""

    def again(assignments, more=None, **arguments):
        return run(assignments, {**context, **(more or {})}, **arguments)

    return again


class TestResuming:
    def test_a_retry_sends_only_what_is_not_done(self, workspace, again):
        _, sandbox, posted = workspace(team(n30="server_error", n31="bad_request"))
        with pytest.raises(ServerError):
            again(rows(*range(60)))
        assert len(posted) == 58
        sandbox.workspace.scenarios.clear()
        summary = again(rows(*range(60)))
        assert summary["done_before"] == {"assigned": 58}
        assert summary["counts"] == {"assigned": 2}
        assert summary["not_done"] == []
        assert sorted(posted[58:]) == [(number(30), ADA), (number(31), ADA)]

    def test_a_batch_that_is_complete_forgets_so_clearing_it_sends_everything_again(self, workspace, context):
        _, _, posted = workspace()
        for _ in range(2):
            assert run(rows(*range(20)), context)["done_before"] == {}
        assert len(posted) == 40
        assert context["task_state_store"] == {}

    def test_so_does_a_partial_success(self, workspace, again):
        _, _, posted = workspace()
        for _ in range(2):
            assert again([*rows(1, 2), *BAD], fail_on_partial_error=False)["done_before"] == {}
        assert len(posted) == 6

    def test_clearing_a_failure_whose_bad_row_was_removed_sends_nothing_again(self, workspace, again):
        _, _, posted = workspace()
        with pytest.raises(AirflowFailException):
            again([*rows(1, 2), *BAD])
        assert again(rows(1, 2))["done_before"] == {"assigned": 2}
        assert len(posted) == 3  # the bad one among them
        assert again(rows(1, 2))["done_before"] == {}

    def test_it_goes_by_number_and_agent_never_by_position(self, workspace, again):
        _, sandbox, posted = workspace(team(n5="server_error"))
        with pytest.raises(ServerError):
            again(rows(*range(10)))
        sandbox.workspace.scenarios.clear()
        posted.clear()
        assert again([*rows(9, 8), *rows(2, agent=BEN), *rows(20, 5, 1)])["done_before"] == {"assigned": 3}
        assert sorted(posted) == [(number(2), BEN), (number(5), ADA), (number(20), ADA)]

    def test_a_new_key_sends_everything_again(self, workspace, context, connect):
        _, sandbox, posted = workspace()
        replace_the_key(sandbox, posted, after=20)
        with pytest.raises(AirflowFailException, match="API key"):
            run(rows(*range(50)), context)
        before = len(posted)
        assert 20 <= before <= 30
        connect(sandbox.base_url, password="sk_live_new", extra={"requests_per_minute": 100_000})
        assert run(rows(*range(50)), context)["done_before"] == {}
        assert len(posted) == before + 50

    def test_another_plan_sends_everything_again_since_holders_may_have_changed_before_it(self, workspace, again):
        _, sandbox, posted = workspace()
        with pytest.raises(AirflowFailException):
            again([*rows(0), *rows(1, agent=DAN)], plan_id="one")
        sandbox.workspace.assign(number(0), BEN)
        posted.clear()
        assert again(rows(0), plan_id="two")["counts"] == {"assigned": 1}
        assert posted == [(number(0), ADA)]
        assert sandbox.workspace.conversations[number(0)].agent_email == ADA

    def test_an_older_airflow_sends_everything_again_and_says_so(self, workspace, old_airflow):
        _, sandbox, posted = workspace(team(n30="server_error"))
        with pytest.raises(ServerError, match="sends everything again, which is harmless"):
            run(rows(*range(60)), old_airflow)
        sandbox.workspace.scenarios.clear()
        assert run(rows(*range(60)), old_airflow)["done_before"] == {}
        assert len(posted) == 59 + 60

    def test_the_store_holds_no_number(self, workspace, context):
        workspace()
        with pytest.raises(AirflowFailException):
            run([*rows(1, 2), *BAD], context)
        content = str(context["task_state_store"])
        assert "1202555" not in content
        assert len(content) > 2 * 22

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
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


class TestChangingOnesMind:
    def test_the_last_agent_of_a_number_counts_not_all_it_ever_had(self, workspace, again):
        _, sandbox, _ = workspace()
        for agent in (ADA, BEN):
            with pytest.raises(AirflowFailException, match="1 of 3"):
                again([*rows(1, agent=agent), *rows(2), *BAD])
        summary = again([*rows(1, agent=ADA), *rows(2)])
        assert summary["done_before"] == {"assigned": 1}
        assert {sandbox.workspace.conversations[number(index)].agent_email for index in (1, 2)} == {ADA}

    def test_a_request_that_failed_may_have_arrived_so_its_number_is_not_done_any_more(self, workspace, again):
        _, sandbox, posted = workspace()
        with pytest.raises(AirflowFailException):
            again([*rows(1, 2), *BAD])
        sandbox.workspace.scenarios[number(1)] = "server_error"
        with pytest.raises(ServerError):
            again([*rows(1, agent=BEN), *rows(2)])
        sandbox.workspace.scenarios.clear()
        posted.clear()
        assert again(rows(1, 2))["done_before"] == {"assigned": 1}
        assert posted == [(number(1), ADA)]

    def test_a_worker_killed_right_after_sending_has_forgotten_what_it_changed(self, workspace, context):
        _, sandbox, posted = workspace()
        with pytest.raises(AirflowFailException):
            run([*rows(1, 2), *BAD], context)
        assign, store = sandbox.workspace.assign, context["task_state_store"]

        def nothing_is_saved_once_requests_are_out(phone, agent):
            context["task_state_store"] = Store(store)
            return assign(phone, agent)

        sandbox.workspace.assign = nothing_is_saved_once_requests_are_out
        with contextlib.suppress(AirflowException):
            run([*rows(1, agent=BEN), *rows(2), *BAD], context, max_in_flight=1)
        sandbox.workspace.assign = assign
        assert sandbox.workspace.conversations[number(1)].agent_email == BEN
        posted.clear()
        assert run(rows(1, 2), context)["done_before"] == {"assigned": 1}
        assert posted == [(number(1), ADA)]

    def test_customers_without_a_conversation_are_done_only_where_they_are_skipped(self, workspace, again):
        workspace(team(5))
        with pytest.raises(AirflowFailException):
            again([*rows(9, 1), *BAD], on_conversation_not_found="skip")
        with pytest.raises(AirflowFailException, match=r"1 of 2 .* \(conversation not found: 1\)"):
            again(rows(9, 1), on_conversation_not_found="fail")

    def test_skipped_ones_are_not_sent_again_and_not_called_assigned(self, workspace, again):
        workspace(team(5))
        with pytest.raises(AirflowFailException):
            again([*rows(9, 1), *BAD], on_conversation_not_found="skip")
        summary = again(rows(9, 1), on_conversation_not_found="skip")
        assert summary["done_before"] == {"assigned": 1, "conversation_not_found": 1}
        assert summary["not_done"] == [[1, 1]]

    def test_a_retry_that_is_too_old_fails_where_an_earlier_try_has_sent_a_part(self, workspace, again):
        workspace()
        due = {"data_interval_end": datetime.now(timezone.utc) - timedelta(hours=9)}
        with pytest.raises(AirflowFailException):
            again([*rows(1, 2), *BAD])
        with pytest.raises(AirflowFailException, match=r"An earlier try has sent a part.*\n.* 9 h ago"):
            again(rows(1, 2, 3), due, max_run_age=timedelta(hours=8))
        again(rows(1, 2, 3))
        with pytest.raises(AirflowSkipException):
            again(rows(1, 2, 3), due, max_run_age=timedelta(hours=8))

    def test_part_of_it_is_enough_where_that_was_said_also_if_an_earlier_try_did_it(self, workspace, again):
        workspace()
        with pytest.raises(AirflowFailException):
            again([*rows(1), *BAD])
        assert again([*rows(1), *BAD], fail_on_partial_error=False)["done_before"] == {"assigned": 1}


class TestStoresThatFail:
    @pytest.mark.parametrize("broken", ["get", "set"])
    def test_a_plan_that_changes_there_and_back_while_the_store_is_down_leaves_nobody_with_the_wrong_agent(
        self, workspace, broken
    ):
        _, sandbox, posted = workspace()
        store = BrokenStore()
        context = {"ti": Instance(), "task_state_store": store}
        with pytest.raises(AirflowFailException):
            run([*rows(1, 2), *BAD], context)
        posted.clear()
        store.broken.add(broken)
        with pytest.raises(AirflowException, match="This try has sent nothing") as raised:
            run([*rows(1, agent=BEN), *rows(2), *BAD], context)
        assert not isinstance(raised.value, AirflowFailException)
        assert posted == []
        store.broken.clear()
        assert run(rows(1, 2), context)["done_before"] == {"assigned": 2}
        assert sandbox.workspace.conversations[number(1)].agent_email == ADA

    def test_one_that_goes_down_later_ends_the_batch_within_what_may_be_repeated(self, workspace):
        _, sandbox, posted = workspace()
        store = BrokenStore()
        context = {"ti": Instance(), "task_state_store": store}
        assign = sandbox.workspace.assign

        def and_the_store_goes_down(phone, agent):
            if len(posted) == 350:
                store.broken.add("set")
            return assign(phone, agent)

        sandbox.workspace.assign = and_the_store_goes_down
        with pytest.raises(AirflowException, match="The batch ends here") as raised:
            run(rows(*range(1000)), context)
        assert not isinstance(raised.value, AirflowFailException)
        sent = len(posted)
        assert 350 <= sent < 1000
        store.broken.clear()
        summary = run(rows(*range(1000)), context)
        assert sent - 200 <= summary["done_before"]["assigned"] <= sent
        assert len(posted) - 1000 <= 200

    def test_a_checkpoint_that_stays_fails_the_task_and_a_retry_only_removes_it(self, workspace):
        _, _, posted = workspace()
        store = BrokenStore()
        context = {"ti": Instance(), "task_state_store": store}
        clear = store.clear
        store.clear = lambda: clear() if len(posted) < 2 or not store.broken else 1 / 0
        store.broken.add("whatever")
        with pytest.raises(AirflowException, match="Everything is done") as raised:
            run(rows(1, 2), context)
        assert not isinstance(raised.value, AirflowFailException)
        store.broken.clear()
        assert run(rows(1, 2), context)["done_before"] == {"assigned": 2}
        assert len(posted) == 2
        assert store == {}
        assert run(rows(1, 2), context)["done_before"] == {}
