from __future__ import annotations

import html
import json
import re
from datetime import timezone
from zoneinfo import ZoneInfo

import pendulum
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from splashify_provider.routing import (
    Conversation,
    Decision,
    Plan,
    RoutingPolicy,
    Shift,
    WeeklyShift,
    plan_assignments,
)
from tests.routing.helpers import AT, HOUR, chat, email, examples, phone, shift

BERLIN = ZoneInfo("Europe/Berlin")


TABLE = """\
At 2026-11-22 13:00 UTC: 2 kept, 7 to move, 0 without an agent on duty

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


class TestLeftOut:
    PLAN = plan_assignments(
        [chat(1, "ada"), chat(2, "ben")],
        [shift("ada"), shift("ben")],
        at=AT,
        unavailable={email("ADA"): "is inactive in Splashify"},
    )

    def test_the_table_names_who_and_why(self):
        lines = self.PLAN.table().splitlines()
        assert lines[1] == "left out: ada@example.com (is inactive in Splashify)"
        assert "ada@example.com       1      0  left out" in lines

    def test_so_does_the_markdown(self):
        lines = self.PLAN.markdown().splitlines()
        assert "| `ada@example.com` | is inactive in Splashify |" in lines
        assert "| `ada@example.com` | 1 | 0 | left out |" in lines


class TestMoment:
    def weekly(self, zone):
        return WeeklyShift(email("ada"), start_time="00:00", end_time="00:00", timezone=zone)

    def test_it_is_shown_in_the_rosters_zone(self):
        plan = plan_assignments([chat(1)], [self.weekly("Europe/Berlin"), shift("ben")], at=AT)
        assert plan.timezone is BERLIN
        assert plan.table().startswith("At 2026-11-22 14:00 CET: 0 kept, 1 to move")
        assert plan.markdown().startswith("### Plan for 2026-11-22 14:00 CET: 0 conversations kept, 1 to move")

    def test_zones_that_differ_are_none(self):
        plan = plan_assignments([chat(1)], [self.weekly("Europe/Berlin"), self.weekly("Asia/Kolkata")], at=AT)
        assert plan.timezone is None
        assert plan.table().startswith("At 2026-11-22 13:00 UTC:")
        assert plan_assignments([chat(1)], [shift("ada")], at=AT).timezone is None

    @pytest.mark.parametrize("of_type", [ZoneInfo, pendulum.timezone])
    def test_another_zone_may_be_given(self, of_type):
        plan = plan_assignments([chat(1)], [self.weekly("Europe/Berlin")], at=AT)
        for text in (plan.table(of_type("Asia/Kolkata")), plan.markdown(of_type("Asia/Kolkata"))):
            assert "2026-11-22 18:30 IST:" in text
        assert "13:00 UTC" in plan.table(timezone.utc)


MARKDOWN = """\
### Plan for 2026-11-22 13:00 UTC: 2 conversations kept, 7 to move, 0 without an agent on duty

| agent | before | after | limit |
| --- | ---: | ---: | ---: |
| `a@x.y` | 2 | 9 | 12 |
| `z@x.y` | 6 | 0 | off duty |
| (nobody) | 1 | 0 |  |

| moved | from | to | why | customers |
| ---: | --- | --- | --- | --- |
| 1 | (nobody) | `a@x.y` | nobody held it; `a@x.y` is on duty | …0009 |
| 6 | `z@x.y` | `a@x.y` | `z@x.y` is not on duty; `a@x.y` is on duty | …0003, …0004, …0005, …0006, …0007 and 1 more |"""


class TestMarkdown:
    def test_it_is_for_people(self):
        holders = ["a@x.y"] * 2 + ["z@x.y"] * 6 + [None]
        chats = [Conversation(phone(number), holder) for number, holder in enumerate(holders, start=1)]
        assert plan_assignments(chats, [Shift("a@x.y", AT, AT + HOUR)], at=AT).markdown() == MARKDOWN

    def test_what_is_left_or_released_is_in_it(self):
        policy = RoutingPolicy(nobody_on_duty="release")
        lines = plan_assignments([chat(1, "zoe"), chat(2)], [], at=AT, policy=policy).markdown().splitlines()
        assert lines[0].endswith("0 conversations kept, 0 to move, 2 without an agent on duty")
        assert (
            "| 1 | `zoe@example.com` | (nobody) | nobody is on duty; to be released from `zoe@example.com` | …0001 |"
            in lines
        )

    def test_of_a_large_plan_the_largest_groups_are_shown_and_the_others_counted(self):
        team = [shift(f"new{number}") for number in range(60)]
        chats = [chat(number, f"old{number % 60}") for number in range(3000)]
        text = plan_assignments(chats, team, at=AT).markdown()
        moved = [line for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
        assert len(moved) == 30
        count, groups = re.search(r"\nAnd ([\d,]+) conversations in ([\d,]+) more groups like these\.$", text).groups()
        assert sum(int(line.split()[1]) for line in moved) + int(count.replace(",", "")) == 3000
        assert int(groups.replace(",", "")) > 1000

    def test_an_empty_plan_is_a_heading(self):
        assert plan_assignments([], [], at=AT).markdown() == (
            "### Plan for 2026-11-22 13:00 UTC: 0 conversations kept, 0 to move, 0 without an agent on duty"
        )

    @pytest.mark.parametrize(
        "hostile",
        [
            "a|b", "a\\|b", "a\\", "`a`", "``", "*a* _b_ **c**", "[a](http://b.example)", "http://b.example",
            "www.b.example", "<script>alert(1)</script>", "<!-- -->", "&lt;b&gt;", "a\n\n# b", "![a](b)", "~~a~~",
            "$a$", "a\r| b |", "javascript:alert(1)",
        ],
    )  # fmt: skip
    def test_text_from_outside_is_never_taken_for_markdown(self, hostile):
        self.check(hostile)

    @given(st.text("a1|`*_[]()<>!&;\\\n :/.@~#'-", max_size=20))
    @examples(200)
    def test_nor_is_any_other_text(self, text):
        self.check(text)

    def check(self, text):
        agent = "a*_`|~@x.y"
        move = Decision(phone(1), None, agent, f"nobody speaks {text}; {agent} is on duty")
        shown = Plan(AT, {agent: 1}, [move], [], [], [], {agent: text or "-"}).markdown()
        page = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(shown)
        tags = "h3|table|thead|tbody|tr|th|td|code"
        assert not re.sub(rf'</?(?:{tags})(?: style="text-align:right")?>', "", page).count("<")
        # Links are also made of addresses in plain text.
        assert not re.search("https?:|www|@", re.sub("<code>.*?</code>", "", page))
        cells = [html.unescape(re.sub("</?code>", "", cell)) for cell in re.findall("<td[^>]*>(.*?)</td>", page)]
        assert not re.search(r"[<>]|\]\(", shown)  # for readers that don't know code either
        nearly = str.maketrans("\\<>[]", "/‹›()")
        expected = " ".join((text or "-").split()).translate(nearly)
        assert cells[:2] == [agent, expected]
        assert cells[-2] == " ".join(move.reason.split()).translate(nearly)


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
