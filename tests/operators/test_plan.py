"""What is planned from which rows, and which agents are found out before."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from splashify_provider.exceptions import ServerError
from splashify_provider.operators import plan
from splashify_provider.routing import RoutingPolicy, Shift, WeeklyShift
from splashify_provider.sandbox.workspace import DEFAULT_KEY
from tests.conftest import number, shown_in_frames
from tests.task_groups.simulation import AT, GONE, HOUR, Run, email, make_group, roster


class TestCheckingAgents:
    def test_who_is_disabled_and_holds_conversations_is_left_out(self, support, log):
        desk = support(*[email("chitra")] * 10, *[email("ada")] * 10, *[GONE] * 10)
        desk.disable("chitra")
        run = desk.run(check_agents=True)
        counts = run()
        assert run.is_green
        assert email("chitra") not in desk.holds()
        moved, checked = counts["moved"], 2
        assert len(desk.posted) == moved + checked
        assert "chitra@example.com is left out of the plan: Agent inactive" in log.text
        assert "is inactive in Splashify" in run._pull("handover.plan", "markdown")
        assert "Left out of the plan: chitra@example.com is inactive in Splashify." in log.text
        assert "Enable chitra@example.com in Splashify under Settings → Team" in log.text

    def test_a_conversation_that_is_gone_says_nothing_of_its_agent(self, support):
        desk = support(*[email("ada")] * 5)
        for chat in list(desk.sandbox.workspace.conversations.values())[:2]:
            chat.open = False
        run = desk.run(shifts=roster("ada"), check_agents=True)
        run()
        assert run.is_green
        assert [phone for phone, _ in desk.posted] == [number(0), number(1), number(2)]

    def test_three_that_are_gone_are_enough(self, support):
        desk = support(*[email("ada")] * 5)
        for chat in desk.sandbox.workspace.conversations.values():
            chat.open = False
        run = desk.run(shifts=roster("ada"), check_agents=True)
        run()
        assert run.is_green
        assert len(desk.posted) == 3

    def test_a_dry_run_checks_nothing_and_says_so(self, support, log):
        desk = support(email("ada"), GONE)
        run = desk.run(check_agents=True, dry_run="True")
        assert run()["status"] == "dry_run"
        assert run.is_green
        assert desk.posted == []
        assert "Dry run: nothing is sent, and agents were not checked." in log.text

    def test_if_nobody_is_left_it_fails_and_says_who_was_left_out(self, support):
        desk = support(email("ada"), GONE)
        desk.disable("ada")
        run = desk.run(shifts=roster("ada"), check_agents=True)
        run()
        assert "ada@example.com" in str(run.errors["handover.plan"])
        assert "There is no plan" in str(run.errors["handover.summary"])

    def test_the_fallback_agent_of_the_policy_is_checked_too(self, support):
        desk = support(email("dora"), email("dora"))
        desk.disable("dora")
        policy = RoutingPolicy(nobody_on_duty="fallback_agent", fallback_agent=email("dora"))
        run = desk.run(shifts=roster(at=AT - 5 * HOUR), policy=policy, check_agents=True)
        run()
        assert not run.is_green
        assert "dora@example.com is inactive in Splashify" in str(run.errors["handover.plan"])

    def test_what_is_wrong_with_one_customer_says_nothing_of_the_agent(self, support):
        desk = support(email("ada"), email("ada"), GONE)
        desk.sandbox.workspace.set_scenario(number(0), "bad_request")
        run = desk.run(shifts=roster("ada"), check_agents=True)
        run()
        assert run.is_green
        assert [phone for phone, _ in desk.posted[:1]] == [number(1)]  # the first never reached the workspace

    def test_splashify_that_is_down_is_worth_a_retry(self, support):
        desk = support(email("ada"), GONE)
        desk.sandbox.workspace.set_scenario(number(0), "server_error")
        run = desk.run(shifts=roster("ada"), check_agents=True)
        run()
        error = run.errors["handover.plan"]
        assert isinstance(error, ServerError)
        assert shown_in_frames(error, DEFAULT_KEY, *(number(index) for index in range(2))) == []


class TestThePlanIsReadFrom:
    def test_weekly_shifts_and_objects(self, support):
        desk = support(GONE, GONE)
        weekly = WeeklyShift(email("ada"), start_time="00:00", end_time="00:00", timezone="Europe/Berlin")
        run = desk.run(shifts=[weekly, Shift(email("ben"), AT - HOUR, AT + HOUR)])
        run()
        assert run.is_green
        assert "14:00 CET" in run._pull("handover.plan", "markdown")

    def test_json_text_and_files(self, support, tmp_path):
        desk = support(GONE)
        csv = tmp_path / "conversations.csv"
        csv.write_text(f"user_phone_number,agent_email\n+{number(0)},{GONE}\n")
        text = '[{"agent_email": "ada@example.com", "start": "2026-11-25T00:00Z", "end": "2026-11-26T00:00Z"}]'
        run = desk.run(shifts=text)
        run.group.plan.conversations = str(csv)
        assert run()["moved"] == 1

    @pytest.mark.parametrize("name", ["shifts", "conversations"])
    def test_no_more_rows_than_anybody_has(self, support, monkeypatch, tmp_path, name):
        monkeypatch.setattr(plan, "MOST_ROWS", 3)
        rows = tmp_path / "rows"
        rows.write_text('{"agent_email": "ada@example.com"}\n' * 4)
        run = support(GONE).run()
        setattr(run.group.plan, name, str(rows))
        run()
        assert str(run.errors["handover.plan"]).startswith(f"There are more than 3 {name}. Nothing was sent.\n")

    def test_nothing_that_is_no_list(self, support):
        run = support(GONE).run()
        run.group.plan.conversations = None
        run()
        assert str(run.errors["handover.plan"]).startswith("conversations must be a list of rows or the path of a file")


def test_a_forgotten_holder_column_is_not_read_as_nobody(support):
    desk = support(email("ada"), email("ben"))
    rows = [{"user_phone_number": phone, "owner": holder} for phone, holder in desk.table.items()]
    run = Run(make_group(desk.write_back, shifts=roster(), conversations=rows))
    run()
    assert not run.is_green
    assert desk.posted == []
    text = str(run.errors["handover.summary"])
    assert "The conversations have no column agent_email (their columns: user_phone_number, owner)" in text
    assert "clear handover.plan with Downstream, for a new plan" in text
    assert "Only Failed" not in text


def test_bad_rows_fail_at_once_and_name_the_tasks_to_clear(support):
    desk = support(GONE)
    run = desk.run(shifts=[{"agent_email": email("ada"), "start": "soon"}])
    run.group.plan.upstream_task_ids.update({"roster", "conversations"})
    run()
    error = run.errors["handover.plan"]
    assert isinstance(error, AirflowFailException)
    assert "then clear conversations, roster" in str(error)
    assert shown_in_frames(error, DEFAULT_KEY, number(0)) == []


def test_numbers_come_back_as_they_were_given(support):
    desk = support(GONE)
    written = []
    rows = [{"user_phone_number": int(number(0)), "agent_email": GONE}]
    run = Run(make_group(written.extend, shifts=roster(), conversations=rows))
    run()
    assert [move["user_phone_number"] for move in written] == [int(number(0))]
    assert desk.in_splashify[f"+{number(0)}"] != GONE


def test_text_from_a_table_is_never_a_template(support):
    odd = "{{'ada'}}@example.com"
    desk = support(GONE)
    desk.sandbox.workspace.set_agent(odd)
    run = desk.run(shifts=[{**roster("ada")[0], "agent_email": odd}])
    (chunk,) = run.group.plan.execute(run.context("handover.plan"))
    operator = run.group.assign.unmap(chunk)
    operator.render_template_fields({"params": {}})
    assert operator.assignments[0]["agent_email"] == odd
    assert "assignments" not in operator.template_fields
