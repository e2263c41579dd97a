"""The same DAG by ``airflow dags test``, on every Airflow."""

from __future__ import annotations

import json

import pytest

from tests.conftest import airflow_cli
from tests.task_groups.desk import GONE, NAMES, email, support_desk

pytestmark = [pytest.mark.slow, pytest.mark.every_airflow]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("handover")
    with support_desk(folder, has_approval=False) as desk:
        airflow = airflow_cli(folder / "airflow", folder / "dags", **desk.connections)

        def run(dag_id="handover", at=None, **params):
            result = airflow("dags", "test", dag_id, *([at] if at else []), "--conf", json.dumps(params))
            lines = (result.stdout + result.stderr).splitlines()
            log = "\n".join(line for line in lines if "[debug" not in line)  # Airflow 3.0 prints messages to tasks
            assert "1202555" not in log
            return result.returncode, log

        yield desk, run


@pytest.mark.parametrize("size", [60, 100, 101, 3000])
def test_any_size_is_handed_over_with_a_request_each(world, size):
    desk, run = world
    desk.open(*[GONE] * size)
    code, log = run()
    assert code == 0, log
    assert desk.is_handed_over(size)
    assert len(desk.posted) == size
    assert f"{size:,} moved, 0 kept" in log


def test_an_agent_disabled_before_the_plan_is_left_out_of_it(world):
    desk, run = world
    desk.open(*[email("chitra")] * 20, *[email("ada")] * 20, *[GONE] * 80)
    desk.set_active(False, "chitra")
    code, log = run("checked")
    assert code == 0, log
    assert desk.is_handed_over(120, "chitra")
    assert "chitra@example.com is left out of the plan" in log


@pytest.mark.parametrize("size", [20, 200])
def test_an_agent_who_is_refused_costs_nobody_an_answer(world, size):
    desk, run = world
    desk.open(*[GONE] * size)
    desk.set_active(False, "chitra")
    code, log = run()
    assert code == 0, log
    assert desk.is_handed_over(size, "chitra")
    assert "Refused by Splashify: chitra@example.com (inactive)" in log


def test_an_agent_disabled_in_the_middle_of_a_batch_keeps_what_they_had_and_gets_no_more(world):
    desk, run = world
    desk.open(*[GONE] * 400)
    desk.on_post = lambda: len(desk.posted) == 200 and desk.set_active(False, "chitra")
    code, log = run()
    assert code == 0, log
    assert desk.is_handed_over(400)
    assert len(desk.posted) <= 400 + 8


def test_where_all_agents_are_refused_it_fails_with_their_names(world):
    desk, run = world
    desk.open(*[GONE] * 120)
    desk.set_active(False, *NAMES)
    code, log = run()
    assert code == 1
    assert desk.holds() == {GONE: 120}
    assert all(f"{email(name)} (inactive)" in log for name in NAMES)


def test_a_dry_run_sends_nothing(world):
    desk, run = world
    desk.open(*[GONE] * 20)
    code, log = run(dry_run=True)
    assert code == 0, log
    assert desk.posted == []
    assert "A dry run, nothing moved: 20 to move, 0 kept." in log


def test_a_run_that_is_too_old_moves_nothing_and_is_green(world):
    desk, run = world
    desk.open(*[GONE] * 20)
    code, log = run(at="2026-01-05T00:00:00+00:00")
    assert code == 0, log
    assert desk.posted == []
    assert "Nothing was moved: the run is too old" in log
