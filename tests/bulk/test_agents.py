"""Who is asked first, who waits for that, and who is next in line where Splashify refuses an agent."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from splashify_provider.bulk.agents import MOST_WAITING
from splashify_provider.bulk.assignment import Assignment
from splashify_provider.exceptions import (
    AgentInactiveError,
    AgentNotFoundError,
    AuthenticationError,
    BadRequestError,
    ConversationNotFoundError,
    RateLimitError,
    ServerError,
    SplashifyConnectionError,
)
from tests.bulk.simulation import Simulation
from tests.conftest import ADA, BEN, DAN, counts, number

EVA = "eva@example.com"
CLOSED = ConversationNotFoundError(400, "closed")


def inactive(item, agent):
    text = (
        f"Agent inactive: {agent} is disabled in Splashify; …{item.user_phone_number[-4:]} was not assigned.\nEnable."
    )
    return AgentInactiveError(400, text)


def lined_up(count, *agents, start=1):
    return [Assignment(index, number(index), agents[0], agents[1:]) for index in range(start, start + count)]


class Splashify:
    """Refuses some agents, from the start or once so many have been assigned, and answers some rows otherwise."""

    def __init__(self, *refuses, after=0, rows=None, **limits):
        self.refuses, self.after, self.rows = {agent.casefold() for agent in refuses}, after, rows or {}
        self.assigned = 0
        self.simulation = Simulation(self, **limits)

    def __call__(self, item, agent):
        if answers := self.rows.get(item.position):
            raise answers.pop(0)
        if self.assigned >= self.after and (agent or "").casefold() in self.refuses:
            raise inactive(item, agent)
        self.assigned += 1
        return "assigned"

    def run(self, rows):
        return {outcome.position: outcome for outcome in self.simulation.run(rows)}

    @property
    def asked(self):
        return Counter(agent for _, agent in self.simulation.asked)


class TestFirstRequests:
    def test_an_agents_first_goes_alone_while_those_of_others_go_on(self):
        splashify = Splashify(max_in_flight=8)
        mixed = [row for pair in zip(lined_up(50, ADA), lined_up(50, BEN, start=51), strict=True) for row in pair]
        splashify.run(mixed)
        moments = {agent: [at for at, who in splashify.simulation.asked if who == agent] for agent in (ADA, BEN)}
        assert moments[ADA][0] == moments[BEN][0]
        for each in moments.values():
            assert each.count(each[0]) == 1
            assert each.count(each[1]) > 1

    @pytest.mark.parametrize("answer", [CLOSED, ServerError(500, "down"), BadRequestError(400, "bad")])
    def test_what_says_nothing_of_the_agent_leaves_the_next_one_alone_again(self, answer):
        splashify = Splashify(rows={1: [answer], 2: [answer]})
        splashify.run(lined_up(20, ADA))
        moments = [at for at, _ in splashify.simulation.asked]
        assert moments[0] < moments[1] < moments[2] < moments[3]
        assert moments[3] == moments[4]

    def test_a_server_that_hangs_is_not_waited_for_row_by_row(self):
        lost = [SplashifyConnectionError("no answer")]
        splashify = Splashify(rows=dict.fromkeys(range(1, 100), lost * 900), latency=30.0, max_in_flight=8)
        outcomes = splashify.run(lined_up(99, ADA))
        assert outcomes[99].stopped_by
        assert max(at for at, _ in splashify.simulation.asked) - 1000.0 < 8 * 30

    def test_a_429_to_the_first_is_repeated_alone(self):
        splashify = Splashify(DAN, rows={1: [RateLimitError(429, "later")]})
        assert counts(splashify.run(lined_up(20, DAN)).values()) == {"agent_inactive": 20}
        assert splashify.asked == {DAN: 2}

    def test_releases_wait_for_nobody(self):
        splashify = Splashify(max_in_flight=8)
        outcomes = splashify.run(lined_up(8, None))
        assert counts(outcomes.values()) == {"released": 8}
        assert splashify.simulation.most_in_flight == 8

    def test_a_release_that_is_refused_is_that_rows_affair(self):
        splashify = Splashify("", max_in_flight=8)
        outcomes = splashify.run(lined_up(9, None))
        assert counts(outcomes.values()) == {"agent_inactive": 9}
        assert splashify.asked == {None: 9}
        assert not any(outcome.refused for outcome in outcomes.values())

    def test_no_more_rows_are_looked_ahead_over_than_so_many(self):
        read = []

        def rows():
            for row in lined_up(5000, ADA):
                read.append(row)
                yield row

        splashify = Splashify(latency=1.0, max_in_flight=64)
        read_by = {}
        splashify.simulation.on_tick = lambda now: read_by.update({now: len(read)})
        splashify.run(rows())
        assert read_by[1000.0] == 1 + MOST_WAITING  # until the first answer arrives
        assert len(read) == 5000

    def test_rows_of_others_are_found_behind_many_that_wait(self):
        splashify = Splashify(rows={1: [CLOSED]})
        outcomes = splashify.run([*lined_up(500, ADA), *lined_up(1, BEN, start=501)])
        assert [agent for _, agent in splashify.simulation.asked[:2]] == [ADA, BEN]
        assert len(outcomes) == 501


class TestNextInLine:
    def test_a_refused_agent_is_asked_once_and_their_rows_go_to_the_next(self):
        splashify = Splashify(DAN)
        outcomes = splashify.run(lined_up(300, DAN, BEN))
        assert splashify.asked == {DAN: 1, BEN: 300}
        assert counts(outcomes.values()) == {"assigned": 300}
        for position, outcome in outcomes.items():
            assert outcome.agent_email == BEN
            assert list(outcome.refused) == [DAN]
            assert f"…{number(position)[-4:]} was not assigned" in outcome.refused[DAN].reason
            assert outcome.error is None

    def test_it_is_known_by_whatever_case_it_is_written_in(self):
        splashify = Splashify(DAN)
        outcomes = splashify.run([*lined_up(2, DAN, BEN), *lined_up(2, "Dan@Example.com", start=3)])
        assert splashify.asked == {DAN: 1, BEN: 2}
        assert (outcomes[4].outcome, outcomes[4].agent_email) == ("agent_inactive", "Dan@Example.com")

    def test_without_a_next_one_they_end_with_its_cause_and_no_request(self):
        splashify = Splashify(DAN)
        outcomes = splashify.run([*lined_up(2000, DAN), *lined_up(10, ADA, start=2001)])
        assert splashify.asked == {DAN: 1, ADA: 10}
        last = outcomes[2000]
        assert (last.outcome, last.agent_email, list(last.refused)) == ("agent_inactive", DAN, [DAN])
        assert last.message == inactive(Assignment(2000, number(2000), DAN), DAN).message
        assert isinstance(last.error, AgentInactiveError)

    def test_who_is_refused_by_all_is_told_all_of_them(self):
        splashify = Splashify(DAN, EVA)
        outcome = splashify.run(lined_up(3, DAN, EVA))[3]
        assert splashify.asked == {DAN: 1, EVA: 1}
        assert outcome.agent_email == EVA
        assert list(outcome.refused) == [DAN, EVA]
        reason, remedy = outcome.message.split("\n")
        assert reason == (
            f"Agent inactive: {DAN} is disabled in Splashify. Agent inactive: {EVA} is disabled in Splashify; …0003 was"
            " not assigned."
        )
        assert remedy == "Enable."

    def test_the_next_one_may_have_no_conversation_either(self):
        splashify = Splashify(DAN, rows={1: [inactive(Assignment(1, number(1), DAN), DAN), CLOSED]})
        outcome = splashify.run(lined_up(3, DAN, BEN))[1]
        assert (outcome.outcome, outcome.agent_email, list(outcome.refused)) == ("conversation_not_found", BEN, [DAN])

    def test_one_who_is_disabled_in_the_middle_costs_no_more_than_what_is_in_flight(self):
        splashify = Splashify(ADA, after=100, max_in_flight=8)
        outcomes = splashify.run(lined_up(300, ADA, BEN))
        assert counts(outcomes.values()) == {"assigned": 300}
        assert splashify.asked[ADA] <= 100 + 8
        assert splashify.asked[ADA] + splashify.asked[BEN] <= 300 + 8

    def test_what_waits_to_be_tried_again_goes_to_the_next_as_well(self):
        splashify = Splashify(DAN, rows={1: [ServerError(500, "down")]})
        outcomes = splashify.run(lined_up(5, DAN, BEN))
        assert counts(outcomes.values()) == {"assigned": 5}
        assert splashify.asked == {DAN: 2, BEN: 5}  # the first said nothing, the second told

    def test_so_does_what_fails_for_a_moment_after_another_was_refused(self):
        down = ServerError(500, "down")
        dan = inactive(Assignment(2, number(2), DAN), DAN)
        splashify = Splashify(DAN, after=1, rows={2: [dan], 3: [down], 4: [down]}, max_in_flight=3)
        line = lined_up(2, DAN, BEN), lined_up(2, "Dan@example.com", BEN, start=3)
        outcomes = splashify.run([*line[0], *line[1]])
        assert counts(outcomes.values()) == {"assigned": 4}
        assert [agent for _, agent in splashify.simulation.asked].count(BEN) == 3
        assert splashify.asked[DAN] + splashify.asked["Dan@example.com"] == 4

    def test_a_stop_in_between_leaves_the_rest_alone(self):
        rows = {1: [inactive(Assignment(1, number(1), DAN), DAN), AuthenticationError(401, "revoked")]}
        splashify = Splashify(DAN, rows=rows)
        outcomes = splashify.run(lined_up(20, DAN, BEN))
        assert counts(outcomes.values()) == {"rejected": 1, "not_attempted": 19}
        assert splashify.asked == {DAN: 1, BEN: 1}
        assert sorted(outcomes) == list(range(1, 21))

    def test_an_unknown_agent_is_refused_as_well(self):
        splashify = Splashify(rows={1: [AgentNotFoundError(400, "Agent not found: x; …0001 was not assigned.")]})
        outcomes = splashify.run(lined_up(3, ADA))
        assert counts(outcomes.values()) == {"agent_not_found": 3}
        assert "…0003" in outcomes[3].message

    @pytest.mark.parametrize("max_in_flight", [1, 8, 64])
    def test_whatever_the_lines_each_refused_agent_costs_one_request(self, max_in_flight):
        chance = random.Random(max_in_flight)
        agents = [f"agent{index}@example.com" for index in range(20)]
        for _ in range(20):
            refused = set(chance.sample(agents, chance.randrange(20)))
            lines = [chance.sample(agents, chance.randrange(1, 6)) for _ in range(200)]
            rows = [Assignment(index, number(index), line[0], tuple(line[1:])) for index, line in enumerate(lines, 1)]
            splashify = Splashify(*refused, max_in_flight=max_in_flight)
            outcomes = splashify.run(rows)
            for row in rows:
                expected = next((agent for agent in row.agents if agent not in refused), None)
                outcome = outcomes[row.position]
                assert (outcome.outcome == "assigned") is (expected is not None)
                assert outcome.agent_email == (expected or row.agents[-1])
            assert splashify.asked.total() <= 200 + len(refused)
            assert all(splashify.asked[agent] <= 1 for agent in refused)
