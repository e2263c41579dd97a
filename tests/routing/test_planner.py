from __future__ import annotations

import re
from dataclasses import replace

import pytest

from splashify_provider.routing import (
    Conversation,
    RoutingError,
    RoutingPolicy,
    Shift,
    WeeklyShift,
    plan_assignments,
)
from tests.routing.helpers import AT, HOUR, agents_of, chat, email, limit, loads_of, phone, shift

TIMES = ((AT - HOUR).isoformat(), (AT + HOUR).isoformat())


class TestOrderOfChoice:
    # All on the roster but Zoe. Of everyone's share there is plenty.
    TEAM = (shift("ada", languages=["en"]), shift("ben", languages=["es", "pt-BR"]), shift("cleo"))

    def decide(self, conversation, **policy):
        plan = plan_assignments([conversation], self.TEAM, at=AT, policy=RoutingPolicy(**policy))
        (decision,) = [*plan.moves, *plan.kept]
        return decision

    def test_the_current_agent_comes_first(self):
        found = self.decide(chat(1, "cleo", owner="ada", language="es"))
        assert found.agent_email == email("cleo")
        assert found.reason == "cleo@example.com is on duty"

    def test_then_the_owner(self):
        found = self.decide(chat(1, "zoe", owner="ada", language="es"))
        assert found.agent_email == email("ada")
        assert found.reason == "zoe@example.com is not on duty; ada@example.com is on duty and owns the customer"

    def test_then_the_owners_backup(self):
        found = self.decide(chat(1, owner="zoe", backup="cleo", language="es"))
        assert found.agent_email == email("cleo")
        assert found.reason == (
            "nobody held it; the owner zoe@example.com is not on duty; "
            "cleo@example.com is on duty and stands in for the owner"
        )

    def test_then_the_language(self):
        found = self.decide(chat(1, "yan", owner="zoe", language="ES"))
        assert found.agent_email == email("ben")
        assert found.reason == (
            "yan@example.com is not on duty; the owner zoe@example.com is not on duty; "
            "ben@example.com is on duty and speaks ES"
        )

    def test_then_everyone_on_duty(self):
        found = self.decide(chat(1, language="fr"))
        assert re.fullmatch(
            r"nobody held it; nobody on duty speaks fr; (ada|ben|cleo)@example.com is on duty", found.reason
        )

    @pytest.mark.parametrize(
        ("without", "expected"),
        [("current", "ada"), ("owner", "cleo"), ("current owner", "cleo"), ("current owner backup", "ben")],
    )
    def test_each_step_can_be_left_out(self, without, expected):
        steps = [step for step in RoutingPolicy().steps if step not in without]
        found = self.decide(chat(1, "cleo", owner="ada", backup="cleo", language="es"), steps=tuple(steps))
        assert found.agent_email == email(expected)

    def test_the_steps_can_be_in_another_order(self):
        steps = ("owner", "backup", "language", "current", "everyone")
        assert self.decide(chat(1, "cleo", owner="ada"), steps=steps).agent_email == email("ada")
        assert self.decide(chat(1, "cleo", language="es"), steps=steps).agent_email == email("ben")
        assert self.decide(chat(1, "cleo", owner="zoe"), steps=steps).agent_email == email("cleo")

    def test_whoever_holds_it_goes_first_among_those_who_speak_the_language(self):
        team = [shift(name, languages=["es"]) for name in ("ada", "ben", "cleo", "dan")]
        steps = RoutingPolicy(steps=("language", "current", "everyone"))
        for number, name in enumerate(("ada", "ben", "cleo", "dan")):
            plan = plan_assignments([chat(number, name, language="es")], team, at=AT, policy=steps)
            assert not plan.moves

    @pytest.mark.parametrize("language", ["pt", "pt-BR", "pt_br", "PT-br"])
    def test_languages_match_by_their_subtags(self, language):
        assert self.decide(chat(1, language=language)).agent_email == email("ben")

    @pytest.mark.parametrize("language", ["pt-PT", "p", "e"])
    def test_other_variants_of_a_language_do_not_match(self, language):
        assert f"nobody on duty speaks {language}" in self.decide(chat(1, language=language)).reason

    def test_addresses_are_compared_without_their_case(self):
        found = self.decide(Conversation(phone(1), " ADA@Example.com"))
        assert found.agent_email == found.from_agent == email("ada")

    def test_a_shift_that_is_over_counts_for_nothing(self):
        team = [*self.TEAM, Shift(email("zoe"), AT - HOUR, AT)]
        plan = plan_assignments([chat(1, "zoe", owner="zoe")], team, at=AT)
        assert "zoe@example.com is not on duty" in plan.moves[0].reason

    def test_a_full_owner_is_passed_over_and_it_says_so(self):
        plan = plan_assignments([chat(number, owner="ada") for number in range(6)], self.TEAM, at=AT)
        assert loads_of(plan)[email("ada")] == limit(6, [1, 1, 1])
        reasons = [move.reason for move in plan.moves if move.agent_email != email("ada")]
        assert all("the owner ada@example.com is at the limit of 3" in reason for reason in reasons)

    def test_who_holds_too_much_keeps_the_customers_they_own_or_can_speak_with(self):
        chats = [chat(number, "ben") for number in range(8)]
        chats += [chat(8, "ben", owner="ben"), chat(9, "ben", language="es")]
        plan = plan_assignments(chats, self.TEAM, at=AT)
        kept = {decision.user_phone_number for decision in plan.kept}
        assert len(kept) == limit(10, [1, 1, 1])
        assert {phone(8), phone(9)} <= kept
        assert all("ben@example.com is at the limit of 5" in move.reason for move in plan.moves)


class TestNobody:
    def plan(self, **policy):
        chats = [chat(1, "zoe"), chat(2)]
        return plan_assignments(
            chats, [Shift(email("ada"), AT, AT + HOUR)], at=AT - HOUR, policy=RoutingPolicy(**policy)
        )

    def test_fail_says_when_and_what_to_do(self):
        with pytest.raises(RoutingError, match=r"^Nobody is on duty at 2026-11-22 12:00 UTC") as raised:
            self.plan()
        assert raised.value.reason == "Nobody is on duty at 2026-11-22 12:00 UTC for 2 open conversations."
        assert raised.value.remedy.startswith("Add a shift to the roster, or choose what else is to be done: nobody")

    def test_leave_changes_nothing(self):
        plan = self.plan(nobody_on_duty="leave")
        assert not plan.moves
        assert not plan.releases
        assert [decision.agent_email for decision in plan.unassigned] == [email("zoe"), None]
        assert [decision.reason for decision in plan.unassigned] == [
            "nobody is on duty; left with zoe@example.com", "nobody is on duty; left without an agent",
        ]  # fmt: skip

    def test_release_lists_what_somebody_holds(self):
        plan = self.plan(nobody_on_duty="release")
        assert plan.releases == [phone(1)]
        assert [decision.agent_email for decision in plan.unassigned] == [None, None]
        assert not plan.to_assignments()

    def test_the_fallback_agent_gets_everything(self):
        plan = self.plan(nobody_on_duty="fallback_agent", fallback_agent=email("zoe"))
        assert [decision.user_phone_number for decision in plan.kept] == [phone(1)]
        assert plan.to_assignments() == [{"user_phone_number": phone(2), "agent_email": email("zoe")}]
        assert plan.moves[0].reason == "nobody is on duty; zoe@example.com is the fallback"

    def test_no_conversations_need_nobody(self):
        assert plan_assignments([], [], at=AT).summary()["moves"] == 0

    @pytest.mark.parametrize("action", ["leave", "release", "fallback_agent"])
    def test_no_speaker_has_the_same_answers(self, action):
        policy = RoutingPolicy(no_speaker=action, fallback_agent=email("boss"))
        plan = plan_assignments(
            [chat(1, "zoe", language="fr"), chat(2, language="es"), chat(3)],
            [shift("ada", languages=["es"])], at=AT, policy=policy,
        )  # fmt: skip
        assert agents_of(plan) == {
            phone(1): {"leave": email("zoe"), "release": None, "fallback_agent": email("boss")}[action],
            phone(2): email("ada"),
            phone(3): email("ada"),
        }
        (decision,) = [each for each in (*plan.moves, *plan.unassigned) if each.user_phone_number == phone(1)]
        assert decision.reason.startswith("zoe@example.com is not on duty; nobody on duty speaks fr; ")

    def test_no_speaker_may_fail_and_says_for_whom(self):
        policy = RoutingPolicy(no_speaker="fail")
        with pytest.raises(RoutingError) as raised:
            plan_assignments([chat(1, language="fr"), chat(2)], [shift("ada")], at=AT, policy=policy)
        assert raised.value.reason == "No agent was found for 1 open conversation at 2026-11-22 13:00 UTC."
        assert "no_speaker in the RoutingPolicy" in raised.value.remedy
        assert raised.value.problems == ["…0001: nobody held it; nobody on duty speaks fr"]

    def test_what_is_left_with_somebody_on_duty_counts(self):
        policy = RoutingPolicy(steps=("language", "current", "everyone"), no_speaker="leave")
        chats = [chat(number, "ada", language="fr") for number in range(6)] + [chat(number) for number in range(6, 10)]
        plan = plan_assignments(chats, [shift("ada"), shift("ben")], at=AT, policy=policy)
        assert loads_of(plan)[email("ada")] <= limit(10, [1, 1])

    def test_who_has_more_than_the_limit_left_with_them_gets_nothing_else(self):
        policy = RoutingPolicy(steps=("language", "current", "everyone"), no_speaker="leave", headroom=0)
        chats = [chat(n, "ada", language="fr") for n in range(7)] + [chat(n, "ada") for n in range(7, 10)]
        plan = plan_assignments(chats, [shift("ada"), shift("ben")], at=AT, policy=policy)
        assert loads_of(plan) == {email("ada"): 7, email("ben"): 3}

    def test_who_could_not_go_elsewhere_stays_before_who_could(self):
        policy = RoutingPolicy(no_speaker="leave")
        chats = [chat(n, "ada", language="fr") for n in range(6)] + [chat(n, "ada") for n in range(6, 10)]
        plan = plan_assignments(chats, [shift("ada"), shift("ben")], at=AT, policy=policy)
        assert not plan.unassigned
        assert loads_of(plan) == {email("ada"): 7, email("ben"): 3}

    def test_the_fallback_agent_has_no_limit_on_duty_either(self):
        policy = RoutingPolicy(no_speaker="fallback_agent", fallback_agent=email("ada"))
        chats = [chat(n, "ada") for n in range(4)] + [chat(n, language="fr") for n in range(4, 6)]
        team = [shift("ada"), shift("ben")]
        plan = plan_assignments(chats, team, at=AT, policy=policy)
        assert loads_of(plan) == {email("ada"): 6}
        done = [replace(each, agent_email=email("ada")) for each in chats]
        assert not plan_assignments(done, team, at=AT, policy=policy).moves

    def test_when_all_who_speak_it_are_full_that_counts_as_nobody(self):
        policy = RoutingPolicy(no_speaker="leave")
        team = [shift("ada", languages=["es"]), shift("ben"), shift("cleo")]
        plan = plan_assignments([chat(number, language="es") for number in range(6)], team, at=AT, policy=policy)
        assert loads_of(plan) == {email("ada"): 3}
        assert "everybody on duty who speaks es is at their limit" in plan.unassigned[0].reason

    def test_without_the_last_step_whoever_finds_nobody_is_treated_so_too(self):
        policy = RoutingPolicy(steps=("owner",), nobody_on_duty="leave")
        plan = plan_assignments(
            [chat(1, "ada", owner="zoe"), chat(2, owner="ada")], [shift("ada")], at=AT, policy=policy
        )
        assert [decision.reason for decision in plan.unassigned] == [
            "the owner zoe@example.com is not on duty; no step of owner found an agent; left with ada@example.com"
        ]


class TestNextInLine:
    TEAM = (shift("ada", languages=["en"]), shift("ben", languages=["es"]), shift("cleo", languages=["es"]))

    def fallbacks(self, conversation, **policy):
        (move,) = plan_assignments([conversation], self.TEAM, at=AT, policy=RoutingPolicy(**policy)).moves
        return (move.agent_email, *move.fallback_agents)

    def test_they_come_in_the_order_of_the_steps(self):
        line = self.fallbacks(chat(1, owner="ada", backup="cleo", language="es"))
        assert line == (email("ada"), email("cleo"), email("ben"))

    def test_whoever_holds_it_comes_first_where_they_are_eligible(self):
        team = [shift("ada"), shift("ben"), shift("cleo")]
        plan = plan_assignments([chat(number, "ada") for number in range(9)], team, at=AT)
        assert {move.fallback_agents[0] for move in plan.moves} == {email("ada")}  # who is above the limit
        without = RoutingPolicy(steps=("everyone",))
        plan = plan_assignments([chat(number, "ada") for number in range(9)], team, at=AT, policy=without)
        assert {move.fallback_agents[0] for move in plan.moves} > {email("ada")}

    def test_a_language_that_must_be_spoken_must_be_spoken_by_them_too(self):
        line = self.fallbacks(chat(1, language="es"), no_speaker="leave")
        assert sorted(line) == [email("ben"), email("cleo")]
        assert len(self.fallbacks(chat(1), no_speaker="leave")) == 3

    @pytest.mark.parametrize(
        ("option", "language", "is_last"),
        [("nobody_on_duty", None, True), ("no_speaker", None, False), ("no_speaker", "es", True)],
    )
    def test_the_fallback_agent_comes_last_where_the_policy_has_one_for_it(self, option, language, is_last):
        policy = {option: "fallback_agent", "fallback_agent": email("boss")}
        line = self.fallbacks(chat(1, language=language), **policy)
        assert (line[-1] == email("boss")) is is_last
        assert line.count(email("boss")) == is_last


class TestUnavailable:
    TEAM = (shift("ada"), shift("chitra", languages=["es"]))

    def plan(self, *chats, team=TEAM, unavailable=None, **policy):
        unavailable = unavailable or {" Chitra@Example.com": "is inactive in Splashify"}
        return plan_assignments(chats, team, at=AT, policy=RoutingPolicy(**policy), unavailable=unavailable)

    def test_they_count_as_not_on_duty_and_the_reasons_say_why(self):
        plan = self.plan(chat(1, "chitra"), chat(2, owner="chitra"), chat(3, "ada", "zoe", "chitra", "es"))
        assert plan.limits == {email("ada"): 4}
        assert plan.unavailable == {email("chitra"): "is inactive in Splashify"}
        assert [move.reason for move in plan.moves] == [
            "chitra@example.com is inactive in Splashify; ada@example.com is on duty",
            "nobody held it; the owner chitra@example.com is inactive in Splashify; ada@example.com is on duty",
        ]
        assert [move.fallback_agents for move in plan.moves] == [(), ()]
        policy = {"steps": ("owner", "backup", "language", "everyone")}
        (kept,) = self.plan(chat(3, "ada", "zoe", "chitra", "es"), **policy).kept
        assert kept.reason == (
            "the owner zoe@example.com is not on duty; the backup chitra@example.com is inactive in Splashify; "
            "nobody on duty speaks es; ada@example.com is on duty"
        )

    def test_only_those_who_were_on_duty_are_left_out(self):
        plan = self.plan(chat(1, "chitra"), team=self.TEAM[:1])
        assert plan.unavailable == {}
        assert plan.moves[0].reason.startswith("chitra@example.com is inactive in Splashify; ")

    def test_where_nobody_is_left_the_error_names_them(self):
        with pytest.raises(RoutingError) as raised:
            self.plan(chat(1), chat(2), team=self.TEAM[1:])
        assert raised.value.reason == (
            "Nobody on duty at 2026-11-22 13:00 UTC can take 2 open conversations: "
            "chitra@example.com is inactive in Splashify."
        )
        assert raised.value.remedy.startswith("Add a shift to the roster, or choose what else is to be done: nobody")

    def test_or_they_are_left_as_the_policy_says(self):
        plan = self.plan(chat(1, "chitra"), chat(2), team=self.TEAM[1:], nobody_on_duty="leave")
        assert [each.reason for each in plan.unassigned] == [
            (
                "chitra@example.com is inactive in Splashify; nobody on duty can take chats; "
                "left with chitra@example.com"
            ),
            "nobody held it; nobody on duty can take chats; left without an agent",
        ]

    def test_where_the_language_finds_nobody_the_error_names_them_too(self):
        with pytest.raises(RoutingError) as raised:
            self.plan(chat(1, language="es"), no_speaker="fail")
        assert raised.value.problems == [
            "chitra@example.com is inactive in Splashify",
            "…0001: nobody held it; nobody on duty speaks es",
        ]

    @pytest.mark.parametrize("team", [(), TEAM[:1]])
    def test_a_fallback_agent_who_is_needed_and_unavailable_fails_the_plan(self, team):
        policy = {
            "nobody_on_duty": "fallback_agent", "no_speaker": "fallback_agent", "fallback_agent": email("chitra"),
        }  # fmt: skip
        with pytest.raises(RoutingError, match="the fallback chitra@example.com is inactive in Splashify"):
            self.plan(chat(1, language="es"), team=team, **policy)
        if team:
            (move,) = self.plan(chat(1), team=team, **policy).moves
            assert move.fallback_agents == ()

    def test_the_reasons_are_one_line_without_phone_numbers(self):
        unavailable = {email("chitra"): "is away,\ncall +1 202 555 0142", email("ada"): None}
        plan = self.plan(unavailable=unavailable)
        assert plan.unavailable == {email("ada"): "can't take chats", email("chitra"): "is away, call …0142"}

    def test_names_that_are_no_addresses_are_refused(self):
        with pytest.raises(RoutingError) as raised:
            self.plan(unavailable={email("ada"): "is away", "Chitra": "is away", None: "is away"})
        assert raised.value.problems == ["key 2 is 'Chitra', not an e-mail address", "key 3 is missing"]


def test_who_is_on_the_roster_twice_has_the_larger_capacity_and_all_languages():
    roster = [shift("ada", languages="en"), shift("Ada", capacity=3, languages="es"), shift("ben")]
    plan = plan_assignments([chat(number) for number in range(16)], roster, at=AT, policy=RoutingPolicy(headroom=0))
    assert plan.limits == {"Ada@example.com": 12, email("ben"): 4}
    plan = plan_assignments([chat(1, language="en"), chat(2, language="es")], roster, at=AT)
    assert loads_of(plan) == {"Ada@example.com": 2}


def test_weekly_shifts_make_plans_too():
    night = WeeklyShift(email("ada"), start_time="22:00", end_time="06:00", timezone="Asia/Tokyo")
    assert plan_assignments([chat(1)], [night], at=AT).moves
