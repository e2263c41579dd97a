"""The whole hand-over against a sandbox: Splashify, the table and the plan say the same at the end."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta, timezone
from importlib.metadata import version

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, TaskGroup, task
from packaging.version import Version

from splashify_provider.exceptions import ServerError, SplashifyConfigurationError
from splashify_provider.operators import plan
from splashify_provider.routing import RoutingPolicy, Shift, WeeklyShift
from splashify_provider.sandbox.workspace import DEFAULT_KEY
from splashify_provider.sql import SqlWriteBack
from splashify_provider.task_groups.handover import SplashifyHandoverTaskGroup
from tests.conftest import number, shown_in_frames
from tests.task_groups.simulation import AT, Killed, Run, make_group

HOUR = timedelta(hours=1)
ON_DUTY = ("ada", "ben", "chitra", "gita")
GONE = "zoe@example.com"
HAS_APPROVAL = Version(version("apache-airflow")) >= Version("3.1")


def email(name):
    return f"{name}@example.com"


def roster(*names, at=AT):
    times = {"starts_at": (at - HOUR).isoformat(), "ends_at": (at + HOUR).isoformat()}
    return [{"agent_email": email(name), **times} for name in names or ON_DUTY]


class Support:
    """A table of conversations, and Splashify with the same."""

    def __init__(self, start, holders):
        self.table = {f"+{number(index)}": holder for index, holder in enumerate(holders)}
        chats = [{"user_phone_number": phone[1:], "agent_email": holder} for phone, holder in self.table.items()]
        agents = [{"email": email(name)} for name in (*ON_DUTY, "zoe", "dora")]
        _, self.sandbox, self.posted = start({"agents": agents, "conversations": chats})

    def disable(self, *names):
        for name in names:
            self.sandbox.workspace.agents[email(name)].active = False

    def enable(self, *names):
        for name in names:
            self.sandbox.workspace.agents[email(name)].active = True

    @property
    def conversations(self):
        return [{"user_phone_number": phone, "agent_email": holder} for phone, holder in self.table.items()]

    def write_back(self, moves):
        for move in moves:
            assert set(move) == {"user_phone_number", "from_agent", "agent_email"}
            if self.table[move["user_phone_number"]] == move["from_agent"]:
                self.table[move["user_phone_number"]] = move["agent_email"]

    @property
    def in_splashify(self):
        chats = self.sandbox.workspace.conversations.values()
        return {f"+{chat.user_phone_number}": chat.agent_email for chat in chats}

    def holds(self):
        """Count what agents hold, in the table and in Splashify alike."""
        assert self.table == self.in_splashify
        return Counter(self.table.values())

    def run(self, due=AT, shifts=None, **arguments):
        group = make_group(self.write_back, shifts=shifts or roster(), conversations=self.conversations, **arguments)
        return Run(group, due)


@pytest.fixture
def support(workspace):
    def make(*holders):
        return Support(workspace, holders)

    return make


@pytest.mark.parametrize("size", [1, 2, 100, 101, 5000])
def test_any_size_is_handed_over_by_the_same_tasks(support, size):
    desk = support(*[GONE] * size)
    run = desk.run()
    counts = run()
    assert run.is_green
    assert counts["moved"] == size
    assert set(desk.holds()) <= set(map(email, ON_DUTY))
    assert len(desk.posted) == size
    chunks = run._pull("handover.plan")
    assert [len(chunk["assignments"]) for chunk in chunks] == ([1] * size if size <= 100 else [size])


def test_with_map_up_to_0_there_is_always_one_task(support):
    run = support(GONE, GONE).run(map_up_to=0)
    run()
    assert len(run._pull("handover.plan")) == 1


def test_what_is_with_somebody_on_duty_stays(support):
    desk = support(*map(email, ON_DUTY))
    run = desk.run()
    assert run()["status"] == "empty"
    assert run.is_green
    assert desk.posted == []
    assert run.states["handover.write_back"] == "skipped"


@pytest.mark.parametrize("map_up_to", [0, 100])
class TestAnAgentWhoIsRefused:
    def test_their_conversations_go_to_the_next_in_line(self, support, map_up_to, log):
        desk = support(*[GONE] * 60)
        desk.disable("chitra")
        run = desk.run(map_up_to=map_up_to)
        counts = run()
        assert run.is_green
        planned = sum(
            move["agent_email"] == email("chitra")
            for chunk in run._pull("handover.plan")
            for move in chunk["assignments"]
        )
        assert planned
        assert desk.holds().total() == 60
        assert email("chitra") not in desk.holds()
        assert len(desk.posted) == 60 + (planned if map_up_to else 1)
        assert counts["refused_agents"] == {
            email("chitra"): {"cause": "agent_inactive", "elsewhere": planned, "failed": 0}
        }
        assert f"Refused by Splashify: chitra@example.com (inactive): {planned} went to the next in line" in log.text

    def test_or_fail_while_everything_else_is_done(self, support, map_up_to):
        desk = support(*[GONE] * 60)
        desk.disable("chitra", "gita")
        run = desk.run(map_up_to=map_up_to, on_agent_refused="fail")
        counts = run()
        assert not run.is_green
        assert set(counts["refused_agents"]) == {email("chitra"), email("gita")}
        assert counts["failed"] == sum(refused["failed"] for refused in counts["refused_agents"].values())
        assert desk.holds()[GONE] == counts["failed"]
        desk.enable("chitra", "gita")
        assert run.clear_failed()["failed"] == 0
        assert run.is_green
        assert GONE not in desk.holds()

    def test_where_all_are_refused_nothing_is_lost(self, support, map_up_to):
        desk = support(*[GONE] * 30)
        desk.disable(*ON_DUTY)
        run = desk.run(map_up_to=map_up_to)
        assert run()["failed"] == 30
        assert desk.holds() == {GONE: 30}
        assert {run.states["handover.write_back"], run.states["handover.summary"]} == {"failed"}
        for error in run.errors.values():
            assert shown_in_frames(error, DEFAULT_KEY, *(number(index) for index in range(30))) == []
        text = str(run.errors["handover.summary"])
        assert text.startswith("30 moves of the plan not done.\n")
        assert "After a change in Splashify, or none: clear the failed tasks of this run (Clear, Only Failed)" in text
        desk.enable(*ON_DUTY)
        run.clear_failed()
        assert run.is_green
        assert GONE not in desk.holds()


def test_what_is_above_a_limit_stays_where_it_is_if_who_has_room_is_refused(support):
    desk = support(*[email("ada")] * 20, *[email("ben")] * 20)
    desk.disable("chitra")
    for _ in range(2):  # and doesn't go round at every run
        run = desk.run(shifts=roster("ada", "ben", "chitra"))
        counts = run()
        assert run.is_green
        assert (counts["moved"], counts["kept"]) == (0, 40)
        assert counts["refused_agents"][email("chitra")]["elsewhere"] > 0
        assert desk.holds() == {email("ada"): 20, email("ben"): 20}


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


@pytest.mark.parametrize("map_up_to", [0, 100])
def test_one_bad_number_costs_that_conversation_only(support, map_up_to):
    desk = support(*[GONE] * 5)
    desk.table["12"] = GONE
    run = desk.run(map_up_to=map_up_to)
    counts = run()
    assert (counts["moved"], counts["failed"]) == (5, 1)
    assert not run.is_green
    assert desk.table.pop("12") == GONE
    assert GONE not in desk.holds()


@pytest.mark.parametrize("map_up_to", [0, 100])
def test_what_was_resolved_meanwhile_is_skipped(support, map_up_to):
    desk = support(*[GONE] * 5)
    desk.sandbox.workspace.conversations[number(3)].open = False
    run = desk.run(map_up_to=map_up_to)
    counts = run()
    assert (counts["moved"], counts["skipped"], counts["failed"]) == (4, 1, 0)
    assert run.is_green
    assert desk.holds()[GONE] == 1


def test_or_fails_where_that_is_asked_for(support):
    desk = support(*[GONE] * 5)
    desk.sandbox.workspace.conversations[number(3)].open = False
    run = desk.run(on_conversation_not_found="fail")
    counts = run()
    assert (counts["moved"], counts["skipped"], counts["failed"]) == (4, 0, 1)
    assert not run.is_green


def test_releases_are_carried_out_and_written_back(support):
    desk = support(GONE, GONE, None)
    policy = RoutingPolicy(nobody_on_duty="release")
    run = desk.run(shifts=roster(at=AT - 5 * HOUR), policy=policy)
    counts = run()
    assert run.is_green
    assert counts["moved"] == 2
    assert desk.holds() == {None: 3}
    assert len(desk.posted) == 2


class TestWritingBack:
    def test_what_fails_is_written_once_it_is_cleared(self, support):
        desk = support(*[GONE] * 5)
        run = desk.run()
        broken = [True]

        def write_back(moves):
            if broken:
                raise OSError("the database is down")
            desk.write_back(moves)

        run.group.write_back.write_back = write_back
        run()
        assert not run.is_green
        assert "5 moves made and not written back: see write_back." in str(run.errors["handover.summary"])
        broken.clear()
        run.clear_failed()
        assert run.is_green
        assert GONE not in desk.holds()

    def test_a_killed_worker_leaves_it_red_until_all_is_written(self, support, monkeypatch, log):
        desk = support(*[GONE] * 5)
        run = desk.run()
        operator, kills = run.group.assign.operator_class, [True]
        execute = operator.execute

        def killed_once(self, context):
            if kills and len(desk.posted) > 2:
                kills.clear()
                raise Killed
            return execute(self, context)

        monkeypatch.setattr(operator, "execute", killed_once)
        run()
        assert {run.states["handover.write_back"], run.states["handover.summary"]} == {"failed"}
        assert desk.holds()[GONE] == 1  # what was made is written already
        assert "Without a result: 1 move" in log.text
        run.clear_failed()
        assert run.is_green
        assert GONE not in desk.holds()

    def test_a_batch_that_is_stopped_has_what_it_made_written_and_sends_the_rest_when_cleared(
        self, support, monkeypatch
    ):
        desk = support(*[GONE] * 150)
        run = desk.run()
        assign = desk.sandbox.workspace.assign

        def assign_and_stop(phone, agent):
            monkeypatch.setattr(run.group.assign.operator_class, "_is_killed", len(desk.posted) > 100)
            return assign(phone, agent)

        desk.sandbox.workspace.assign = assign_and_stop
        run()
        desk.sandbox.workspace.assign = assign
        monkeypatch.setattr(run.group.assign.operator_class, "_is_killed", False)
        assert {run.states["handover.write_back"], run.states["handover.summary"]} == {"failed"}
        assert 100 < 150 - desk.holds()[GONE] < 150
        run.clear_failed()
        assert run.is_green
        assert GONE not in desk.holds()
        assert len(desk.posted) == 150

    def test_results_of_an_earlier_plan_count_for_nothing(self, support):
        desk = support(*[GONE] * 5)
        run = desk.run()
        run()
        stale = dict(run.xcoms)
        desk.sandbox.workspace.conversations[number(0)].agent_email = GONE
        desk.table[f"+{number(0)}"] = GONE
        run.group.plan.conversations = desk.conversations
        run.clear("handover.plan", "handover.assign", "handover.write_back", "handover.summary")
        assert {key: value for key, value in stale.items() if key[0] == "handover.assign" and key[1]}.items() <= (
            run.xcoms.items()
        )
        assert run._pull("handover.summary")["moved"] == 1
        assert GONE not in desk.holds()

    def test_moves_of_long_ago_are_not_written_any_more_and_that_is_no_success(self, support):
        desk = support(*[GONE] * 2)
        due = datetime.now(timezone.utc)
        run = desk.run(due, shifts=roster(at=due), max_run_age=2 * HOUR)
        run()
        desk.table = dict.fromkeys(desk.table, GONE)
        for key, value in run.xcoms.items():
            if key[0] == "handover.assign":
                value["ended_at"] = (due - 3 * HOUR).isoformat()
        run.clear("handover.write_back", "handover.summary")
        assert set(desk.table.values()) == {GONE}
        assert "2 moves made longer than max_run_age ago" in str(run.errors["handover.write_back"])
        assert not run.is_green

    def test_a_failing_database_is_told_beside_moves_that_are_not_done(self, support):
        desk = support(*[GONE] * 4)
        desk.table["12"] = GONE

        def fail(moves):
            raise OSError("the database is down")

        run = Run(make_group(fail, shifts=roster(), conversations=desk.conversations))
        run()
        assert str(run.errors["handover.summary"]).startswith(
            "1 move of the plan not done. 4 moves made and not written back: see write_back."
        )

    def test_what_is_sent_again_to_somebody_else_is_written_too(self, support):
        desk = support(*[GONE] * 30)
        desk.disable("chitra")
        run = desk.run()
        run()
        desk.enable("chitra")
        run.clear("handover.assign", "handover.write_back", "handover.summary")
        assert run.is_green
        assert desk.holds()[email("chitra")]

    def test_every_row_of_a_customer_is_written(self, support):
        desk = support(GONE)
        desk.table[f"+1 202-555-{number(0)[-4:]}"] = GONE
        run = desk.run()
        assert run()["moved"] == 1
        assert len(desk.posted) == 1
        assert set(desk.table.values()) == {desk.in_splashify[f"+{number(0)}"]}

    def test_without_a_function_nothing_is_written(self, support):
        desk = support(GONE)
        group = make_group(None, shifts=roster(), conversations=desk.conversations)
        run = Run(group)
        run()
        assert group.write_back is None
        assert run.is_green


def test_a_run_that_is_too_old_moves_nothing_and_ends_green(support, log):
    desk = support(GONE)
    run = desk.run(max_run_age=timedelta(minutes=1), due=AT - timedelta(days=30))
    assert run()["status"] == "too_old"
    assert run.is_green
    assert desk.posted == []
    assert "the run is too old" in log.text


def test_what_becomes_too_old_before_it_is_sent_is_no_success(support, log):
    now = datetime.now(timezone.utc)
    desk = support(*[GONE] * 5)
    desk.sandbox.workspace.set_scenario(number(0), "server_error")
    run = desk.run(now, shifts=roster(at=now), max_run_age=timedelta(minutes=5))
    assert run()["failed"] == 1
    run.due -= timedelta(hours=1)
    counts = run.clear_failed()
    assert (counts["moved"], counts["failed"]) == (4, 1)
    assert not run.is_green
    assert "1 move not made: the run was older than max_run_age by then." in log.text
    assert "Trigger a new run" in str(run.errors["handover.summary"])
    assert desk.holds()[GONE] == 1


def test_those_left_without_an_agent_are_told(support, log):
    desk = support(GONE, GONE)
    run = desk.run(shifts=roster(at=AT - 5 * HOUR), policy=RoutingPolicy(nobody_on_duty="leave"))
    assert run()["unassigned"] == 2
    assert "Nothing had to be moved: 0 kept, 2 left without an agent on duty." in log.text


def test_a_pull_that_skips_ends_green(support):
    run = support(GONE).run()
    run.upstream = "skipped"
    assert run()["status"] == "skipped"
    assert run.is_green


def test_a_pull_that_skips_leaves_no_earlier_plan_in_force(support):
    desk = support(GONE, GONE)
    run = desk.run()
    run()
    desk.table = dict.fromkeys(desk.table, GONE)
    run.upstream = "skipped"
    assert (
        run.clear("handover.plan", "handover.assign", "handover.write_back", "handover.summary")["status"] == "skipped"
    )
    assert set(desk.table.values()) == {GONE}


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


def test_a_pull_that_fails_ends_red(support):
    desk = support(GONE)
    run = desk.run()
    run.upstream = "upstream_failed"
    assert run()["status"] == "failed"
    assert not run.is_green
    assert run.states["handover.write_back"] == "failed"
    run.upstream = None
    run.clear_failed()
    assert run.is_green
    assert GONE not in desk.holds()


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


def test_a_write_back_that_could_not_write_fails_before_anything_moves(support):
    class WriteBack:
        def check(self):
            raise OSError("no such column: agent_email")

        def __call__(self, moves):
            raise AssertionError(moves)

    desk = support(GONE)
    run = Run(make_group(WriteBack(), shifts=roster(), conversations=desk.conversations))
    run()
    assert not run.is_green
    assert desk.posted == []


def test_what_is_not_written_is_told(support, log):
    desk = support(*[GONE] * 5)
    run = Run(make_group(lambda moves: len(moves) - 2, shifts=roster(), conversations=desk.conversations))
    run()
    assert run.is_green
    assert "2 moves not written back, as the rows have changed: see the log of write_back." in log.text


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


def test_the_log_shows_no_whole_number(support, log):
    desk = support(*[GONE] * 3, email("ada"))
    desk.disable("chitra")
    run = desk.run(check_agents=True)
    run()
    assert number(0)[:-4] not in log.text


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


async def later(moves):
    """Do nothing when it is called."""


def in_pieces(moves):
    yield moves


@task
def as_task(moves):
    """Make a task when it is called."""


class TestTheGroup:
    def test_has_its_tasks_as_attributes_and_more_can_hang_on_them(self):
        group = make_group(print)
        assert [task.task_id for task in (group.plan, group.assign, group.write_back, group.summary)] == [
            "handover.plan",
            "handover.assign",
            "handover.write_back",
            "handover.summary",
        ]
        assert group.approval is None
        assert [leaf.task_id for leaf in group.leaves] == ["handover.summary"]
        assert group.assign.downstream_task_ids == {"handover.write_back", "handover.summary"}

    def test_takes_what_a_task_group_takes_and_stands_twice_and_inside_others(self):
        with DAG("d", schedule=None, start_date=AT):
            with TaskGroup("outer"):
                one = SplashifyHandoverTaskGroup("one", shifts=[], conversations=[], tooltip="first")
            two = SplashifyHandoverTaskGroup("two", shifts=[], conversations=[], prefix_group_id=False)
        assert one.plan.task_id == "outer.one.plan"
        assert one.tooltip == "first"
        assert two.plan.task_id == "plan"
        assert two.summary.tasks.assign == "assign"

    def test_keeps_to_default_args(self):
        defaults = {"retries": 7, "pool": "splashify", "splashify_conn_id": "other", "do_xcom_push": False}
        group = make_group(print, {"default_args": {"pool": "none"}}, default_args=defaults)
        for one in (group.plan, group.write_back):
            assert (one.retries, one.pool) == (7, "splashify")
        assert group.assign.partial_kwargs["retries"] == 7
        assert group.assign.partial_kwargs["pool"] == "splashify"
        assert group.plan.splashify_conn_id == "other"
        assert group.assign.unmap({"assignments": []}).splashify_conn_id == "other"
        assert group.plan.do_xcom_push

    def test_assigns_only_after_what_comes_before_has_succeeded(self):
        group = make_group(default_args={"trigger_rule": "all_done"})
        assert group.assign.partial_kwargs["trigger_rule"] == group.plan.trigger_rule == "all_success"

    def test_takes_default_args_that_name_its_own_arguments(self):
        group = make_group(default_args={"dry_run": True, "max_run_age": HOUR})
        assert (group.plan.is_dry_run, group.plan.max_run_age) == (True, HOUR)
        assert group.assign.unmap({"assignments": []}).is_dry_run is False
        assert group.assign.partial_kwargs["max_run_age"] == HOUR

    def test_may_be_given_its_dag(self):
        dag = DAG("given", schedule=None, start_date=AT)
        group = SplashifyHandoverTaskGroup(dag=dag, shifts=[], conversations=[])
        assert set(dag.task_ids) == {"handover.plan", "handover.assign", "handover.summary"}
        assert group.summary.dag is dag

    def test_tries_again_unless_told_otherwise(self):
        assert make_group().assign.partial_kwargs["retries"] == 3
        waits = make_group(default_args={"retry_delay": HOUR}).assign.partial_kwargs
        assert (waits["retries"], waits["retry_delay"]) == (3, HOUR)

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"map_up_to": -1}, "map_up_to must be a whole number"),
            ({"map_up_to": 1025}, r"Airflow maps at most 1,024 tasks \(\[core\] max_map_length\)"),
            ({"write_back": "moves"}, "write_back must be a plain function"),
            ({"write_back": SqlWriteBack}, "write_back must be a plain function"),
            ({"write_back": later}, "write_back must be a plain function"),
            ({"write_back": in_pieces}, "write_back must be a plain function"),
            ({"write_back": as_task}, "write_back must be a plain function"),
            ({"approval": True}, "approval must be a dictionary"),
            ({"approval": {"task_id": "ask"}}, "approval must be a dictionary .* without .*task_id"),
            ({"on_agent_refused": "skip"}, "on_agent_refused must be 'next' or 'fail'"),
            ({"on_conversation_not_found": "no"}, "on_conversation_not_found must be"),
            ({"max_run_age": 8}, "max_run_age must be a timedelta"),
            ({"policy": "leave"}, "policy must be a RoutingPolicy"),
            ({"check_agents": "yes"}, "check_agents must be"),
        ],
    )
    def test_refuses_what_is_wrong_when_the_dag_is_parsed(self, wrong, words):
        with pytest.raises(SplashifyConfigurationError, match=words):
            make_group(**wrong)

    @pytest.mark.skipif(HAS_APPROVAL, reason="there are approvals")
    def test_says_that_approvals_came_with_3_1(self):
        with pytest.raises(SplashifyConfigurationError, match="approval needs Airflow 3.1 or later"):
            make_group(approval={})


@pytest.mark.skipif(not HAS_APPROVAL, reason="approvals came with 3.1")
class TestApproval:
    def test_is_asked_before_anything_is_assigned(self):
        group = make_group(print, approval={"response_timeout": HOUR, "defaults": "Reject"})
        assert group.approval.upstream_task_ids == {"handover.plan"}
        assert group.approval.downstream_task_ids == {"handover.assign"}
        assert group.approval.response_timeout == HOUR

    def test_is_not_timed_out_by_the_execution_timeout_nor_asked_twice(self):
        group = make_group(approval={}, default_args={"execution_timeout": HOUR, "retries": 4})
        assert (group.approval.response_timeout, group.approval.retries) == (None, 0)

    def test_of_nothing_is_not_asked(self, support):
        run = support(email("ada")).run(approval={})
        run()
        run._execute(run.group.approval)
        assert run.states["handover.approval"] == "skipped"

    def test_that_is_refused_moves_nothing_and_ends_green(self, support, log):
        desk = support(GONE)
        run = desk.run(approval={}).reject()
        assert run()["status"] == "rejected"
        assert run.is_green
        assert desk.posted == []
        assert "the plan was not approved" in log.text
