"""Who gets a conversation whose agent Splashify refuses, and what that costs: requests counted where they arrive."""

from __future__ import annotations

import random

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from splashify_provider.exceptions import AgentInactiveError
from tests.conftest import ADA, BEN, DAN, number, requests_to, rows, team
from tests.operators.bulk_task import read, run

NOBODY = "nobody@example.com"


def lined_up(*indexes, agents):
    return [{**row, "fallback_agents": list(agents[1:])} for row in rows(*indexes, agent=agents[0])]


class TestNextInLine:
    def test_the_next_one_has_it_and_the_summary_says_where(self, workspace, log):
        _, sandbox, _ = workspace()
        plan = [*rows(0), *lined_up(*range(1, 30), agents=[DAN, BEN]), *rows(30)]
        summary = run(plan)
        assert summary["counts"] == {"assigned": 31}
        assert (summary["undone"], summary["not_done"], summary["failures"]) == (0, [], [])
        assert summary["elsewhere"] == {BEN: [[2, 30]]}
        assert summary["refused_agents"] == {DAN: {"cause": "agent_inactive", "elsewhere": 29, "failed": 0}}
        assert {sandbox.workspace.conversations[number(index)].agent_email for index in range(1, 30)} == {BEN}
        once = log.text.count("The batch took")  # Airflow 2 logs it in several places
        assert log.text.count(f"Agent inactive: {DAN}") == once
        assert f"{DAN} is disabled in Splashify; 29 conversations went to the next in line, 0 failed." in log.text
        assert log.text.count("Enable them under Settings → Team") == once

    @pytest.mark.parametrize("max_in_flight", [1, 8, 64])
    @pytest.mark.parametrize("latency", [0.0, 0.01])
    def test_a_batch_sends_no_more_requests_than_rows_and_refused_agents(self, workspace, max_in_flight, latency):
        chance = random.Random(max_in_flight)
        agents = [f"agent{index}@example.com" for index in range(12)]
        active = agents[:6]
        seed = team(300)
        seed["agents"] += [{"email": email, "active": email in active} for email in agents[:9]]  # three are unknown
        _, sandbox, posted = workspace(seed, latency=latency)
        plan = []
        for index in range(300):
            line = chance.sample(agents[6:], 2) + chance.sample(active, 1)
            plan += lined_up(index, agents=chance.sample(line, 3))
        summary = run(plan, max_in_flight=max_in_flight)
        assert summary["counts"] == {"assigned": 300}
        assert requests_to(sandbox) == len(posted) == 300 + len(summary["refused_agents"]) <= 306

    def test_where_all_are_refused_it_fails_with_the_causes(self, workspace, context):
        workspace()
        with pytest.raises(AirflowFailException) as raised:
            run([*rows(0), *lined_up(1, 2, agents=[DAN, NOBODY])], context)
        assert isinstance(raised.value.__cause__, AgentInactiveError)
        reason, remedy = str(raised.value).split("\n")
        assert (
            reason
            == "2 of 3 conversations are not done (dan@example.com inactive: 2, nobody@example.com not found: 2)."
        )
        assert "Enable them" in remedy
        assert "Add them" in remedy
        failure = context["ti"].pushed["return_value"]["failures"][0]
        assert DAN in failure["message"]
        assert NOBODY in failure["message"]
        assert failure["agent_email"] == NOBODY

    def test_it_may_be_ruled_out(self, workspace, context):
        _, _, posted = workspace()
        plan = [*rows(0), *lined_up(1, 2, agents=[DAN, BEN]), {**rows(3)[0], "fallback_agents": "no address"}]
        with pytest.raises(AirflowFailException, match=r"2 of 4 .* \(dan@example.com inactive: 2\)"):
            run(plan, context, on_agent_refused="fail")
        assert sorted(agent for _, agent in posted) == [ADA, ADA, DAN]
        assert context["ti"].pushed["return_value"]["elsewhere"] == {}

    def test_one_who_is_disabled_in_the_middle_of_a_batch_is_passed_over_from_then_on(self, workspace):
        _, sandbox, posted = workspace(latency=0.005)
        assign = sandbox.workspace.assign

        def disable_her(phone, agent):
            if len(posted) >= 100:
                sandbox.workspace.agents[ADA].active = False
            return assign(phone, agent)

        sandbox.workspace.assign = disable_her
        summary = run(lined_up(*range(300), agents=[ADA, BEN]))
        assert summary["counts"] == {"assigned": 300}
        assert summary["refused_agents"][ADA]["elsewhere"] == sum(
            last - first + 1 for first, last in summary["elsewhere"][BEN]
        )
        assert len(posted) <= 300 + 8 + 1

    def test_the_report_names_who_has_it(self, workspace, tmp_path):
        workspace()
        run(lined_up(1, agents=[DAN, BEN]), report_path=str(tmp_path / "r.jsonl"))
        assert read(tmp_path / "r.jsonl")[0]["agent_email"] == BEN


class TestAcrossTries:
    BAD = lined_up(99, agents=[DAN])

    def test_a_retry_knows_who_of_the_line_has_it_and_sends_it_to_nobody(self, workspace, context):
        _, _, posted = workspace()
        plan = [*lined_up(1, 2, agents=[DAN, BEN]), *rows(3)]
        with pytest.raises(AirflowFailException):
            run([*plan, *self.BAD], context)
        posted.clear()
        summary = run(plan, context)
        assert (summary["done_before"], posted) == ({"assigned": 3}, [])
        assert summary["elsewhere"] == {BEN: [[1, 2]]}
        assert summary["not_done"] == []

    def test_who_had_it_in_the_first_place_is_not_next_in_line(self, workspace, context):
        _, sandbox, posted = workspace()
        with pytest.raises(AirflowFailException):
            run([*rows(1, agent=BEN), *self.BAD], context)
        posted.clear()
        run(lined_up(1, agents=[ADA, BEN]), context)
        assert posted == [(number(1), ADA)]
        assert sandbox.workspace.conversations[number(1)].agent_email == ADA

    def test_what_the_next_one_has_got_is_not_theirs_in_another_plan(self, workspace, context):
        _, _, posted = workspace()
        with pytest.raises(AirflowFailException):
            run([*lined_up(1, agents=[DAN, BEN]), *self.BAD], context)
        posted.clear()
        run(rows(1, agent=BEN), context)
        assert posted == [(number(1), BEN)]
