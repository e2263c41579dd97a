"""The whole hand-over against a sandbox: Splashify, the table and the plan say the same at the end."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from airflow.providers.common.compat.sdk import DAG, TaskGroup, task
from packaging.version import Version

from splashify_provider.exceptions import SplashifyConfigurationError
from splashify_provider.routing import RoutingPolicy
from splashify_provider.sandbox.workspace import DEFAULT_KEY
from splashify_provider.sql import SqlWriteBack
from splashify_provider.task_groups.handover import SplashifyHandoverTaskGroup
from tests.conftest import number, shown_in_frames
from tests.task_groups.simulation import AT, GONE, HOUR, ON_DUTY, email, make_group, roster

HAS_APPROVAL = Version(version("apache-airflow")) >= Version("3.1")


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


def test_the_log_shows_no_whole_number(support, log):
    desk = support(*[GONE] * 3, email("ada"))
    desk.disable("chitra")
    run = desk.run(check_agents=True)
    run()
    assert number(0)[:-4] not in log.text


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
