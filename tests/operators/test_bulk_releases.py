"""Conversations that the bulk operator takes away from their agents."""

from __future__ import annotations

import json

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from tests.conftest import ADA, BEN, DAN, number, rows, team
from tests.operators.bulk_task import read, run


@pytest.fixture
def held(workspace):
    """Start a Splashify where Ben has all conversations, and give it with what was posted."""
    seed = team(20)
    for chat in seed["conversations"]:
        chat["agent_email"] = BEN
    _, sandbox, posted = workspace(seed)
    return sandbox.workspace.conversations, posted


def test_they_alone_are_a_batch(held):
    conversations, posted = held
    summary = run((), releases=["+" + number(1), {"user_phone_number": "+" + number(2), "from_agent": BEN}])
    assert summary["counts"] == {"released": 2}
    assert (summary["undone"], summary["not_done"], summary["elsewhere"]) == (0, [], {})
    assert [conversations[number(index)].agent_email for index in (1, 2, 3)] == [None, None, BEN]
    assert sorted(posted) == [(number(1), ""), (number(2), "")]


def test_positions_count_on_after_the_last_assignment(held, tmp_path, context):
    conversations, _ = held
    report = tmp_path / "r.jsonl"
    with pytest.raises(
        AirflowFailException, match=r"2 of 5 .* \(dan@example.com inactive: 1; conversation not found: 1\)"
    ):
        run(
            [*rows(1), *rows(2, agent=DAN)],
            context,
            releases=json.dumps(["+" + number(index) for index in (3, 99, 4)]),
            report_path=str(report),
        )
    summary = context["ti"].pushed["return_value"]
    assert summary["not_done"] == [[2, 2], [4, 4]]
    assert summary["counts"] == {"assigned": 1, "agent_inactive": 1, "released": 2, "conversation_not_found": 1}
    assert {line["position"]: line["outcome"] for line in read(report)}[5] == "released"
    assert conversations[number(4)].agent_email is None


def test_what_is_released_is_not_released_again_by_a_retry(held, context):
    _, posted = held
    plan = {"releases": ["+" + number(1)]}
    with pytest.raises(AirflowFailException):
        run(rows(2, agent=DAN), context, **plan)
    posted.clear()
    assert run((), context, **plan)["done_before"] == {"released": 1}
    assert posted == []


def test_a_number_in_both_fails_the_task_before_anything_is_sent(held):
    _, posted = held
    with pytest.raises(AirflowFailException, match="to be released, but row 1 gives the same number to ada@"):
        run(rows(1), releases=["+" + number(1)])
    assert posted == []


def test_a_blank_agent_never_releases(held):
    _, posted = held
    for blank in ("", " ", None):
        with pytest.raises(AirflowFailException, match="e-mail for …0001 is missing"):
            run([{"user_phone_number": "+" + number(1), "agent_email": blank}], releases=["+" + number(2)])
    assert posted == []


def test_customers_without_a_conversation_may_be_skipped(held):
    summary = run((), releases=["+" + number(99)], on_conversation_not_found="skip")
    assert (summary["undone"], summary["not_done"]) == (0, [[1, 1]])


def test_they_are_sent_by_the_same_key_at_the_same_pace(workspace):
    _, sandbox, _ = workspace(per_minute=100)
    run(rows(*range(50), agent=ADA), releases=["+" + number(index) for index in range(50, 100)])
    assert sandbox.workspace.answers == {200: 100}
