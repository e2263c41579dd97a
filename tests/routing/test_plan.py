from __future__ import annotations

import json

from splashify_provider.routing import RoutingPolicy, plan_assignments
from tests.routing.helpers import AT, chat, email, phone, shift


def test_the_summary_counts_before_and_after():
    team = [shift("ada"), shift("ben")]
    chats = [chat(1, "ada"), chat(2, "zoe"), chat(3)]
    summary = plan_assignments(chats, team, at=AT, policy=RoutingPolicy(headroom=0)).summary()
    assert json.loads(json.dumps(summary)) == summary
    agents = summary["agents"]
    assert summary | {"agents": None} == {
        "at": "2026-11-22T13:00:00+00:00", "kept": 1, "moves": 2, "unassigned": 0, "releases": 0, "unavailable": {},
        "nobody": {"before": 1, "after": 0}, "agents": None,
    }  # fmt: skip
    assert agents[email("zoe")] == {"before": 1, "after": 0, "limit": None}
    assert agents[email("ada")]["before"] == 1
    assert agents[email("ada")]["after"] + agents[email("ben")]["after"] == 3


def test_the_summary_names_who_was_left_out():
    plan = plan_assignments(
        [chat(1, "ada")], [shift("ada"), shift("ben")], at=AT, unavailable={email("ada"): "is inactive in Splashify"}
    )
    summary = plan.summary()
    assert summary["unavailable"] == {email("ada"): "is inactive in Splashify"}
    assert summary["agents"][email("ada")] == {"before": 1, "after": 0, "limit": None}


def test_the_assignments_are_the_moves_and_nothing_else():
    plan = plan_assignments([chat(1, "zoe"), chat(2, "ada")], [shift("ada"), shift("ben")], at=AT)
    (move,) = plan.moves
    assert move.fallback_agents
    assert plan.to_assignments() == [{"user_phone_number": phone(1), "agent_email": move.agent_email}]
