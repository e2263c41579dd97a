from __future__ import annotations

import json

from splashify_provider.routing import Conversation, RoutingPolicy, Shift, plan_assignments
from tests.routing.helpers import AT, HOUR, chat, email, phone, shift


def test_the_summary_counts_before_and_after():
    team = [shift("ada"), shift("ben")]
    chats = [chat(1, "ada"), chat(2, "zoe"), chat(3)]
    summary = plan_assignments(chats, team, at=AT, policy=RoutingPolicy(headroom=0)).summary()
    assert json.loads(json.dumps(summary)) == summary
    agents = summary["agents"]
    assert summary | {"agents": None} == {
        "at": "2026-11-22T13:00:00+00:00", "kept": 1, "moves": 2, "unassigned": 0, "releases": 0,
        "nobody": {"before": 1, "after": 0}, "agents": None,
    }  # fmt: skip
    assert agents[email("zoe")] == {"before": 1, "after": 0, "limit": None}
    assert agents[email("ada")]["before"] == 1
    assert agents[email("ada")]["after"] + agents[email("ben")]["after"] == 3


TABLE = """\
At 2026-11-22 13:00 UTC: 2 kept, 7 moved, 0 without an agent on duty

agent     before  after  limit
a@x.y          2      9        12
z@x.y          6      0  off duty
(nobody)       1      0

         agent  why               customers
kept  2  a@x.y  a@x.y is on duty  …0001, …0002

          agent             why                                     customers
moved  1  (nobody) → a@x.y  nobody held it; a@x.y is on duty        …0009
moved  6  z@x.y → a@x.y     z@x.y is not on duty; a@x.y is on duty  …0003, …0004, …0005, …0006, …0007 and 1 more"""


def test_the_table_is_for_people():
    holders = ["a@x.y"] * 2 + ["z@x.y"] * 6 + [None]
    chats = [Conversation(phone(number), holder) for number, holder in enumerate(holders, start=1)]
    assert plan_assignments(chats, [Shift("a@x.y", AT, AT + HOUR)], at=AT).table() == TABLE


def test_a_large_plan_is_still_a_readable_table():
    team = [shift(f"new{number}") for number in range(60)]
    chats = [chat(number, f"old{number % 60}") for number in range(3000)]
    plan = plan_assignments(chats, team, at=AT)
    lines = plan.table().splitlines()
    assert len(lines) < 250
    moved = [line for line in lines if line.startswith("moved ")]
    assert len(moved) == 101
    assert sum(int(line.split()[1]) for line in moved) == 3000
    assert "more groups like these" in moved[-1]
