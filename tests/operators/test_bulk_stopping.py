"""What it means to the bulk operator that a batch was stopped."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from splashify_provider.exceptions import AuthenticationError, ServerError
from tests.conftest import number, rows, team
from tests.operators.test_bulk import Instance, run


def test_a_key_revoked_before_the_last_rows_fails_the_task_for_good(workspace):
    _, sandbox, posted = workspace()
    assign = sandbox.workspace.assign

    def revoke_after_five(phone, agent):
        if len(posted) == 4:
            sandbox.workspace.keys = frozenset({"sk_live_new"})
        return assign(phone, agent)

    sandbox.workspace.assign = revoke_after_five
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
