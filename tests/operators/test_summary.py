"""How a hand-over ends, in which colour, and what it says."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from splashify_provider.routing import RoutingPolicy
from tests.conftest import number
from tests.task_groups.simulation import AT, GONE, HOUR, Run, make_group, roster


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


def test_what_is_not_written_is_told(support, log):
    desk = support(*[GONE] * 5)
    run = Run(make_group(lambda moves: len(moves) - 2, shifts=roster(), conversations=desk.conversations))
    run()
    assert run.is_green
    assert "2 moves not written back, as the rows have changed: see the log of write_back." in log.text


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
