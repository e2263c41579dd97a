"""What was made is written, all of it, and nothing else."""

from __future__ import annotations

from datetime import datetime, timezone

from tests.conftest import number
from tests.task_groups.simulation import GONE, HOUR, Killed, Run, email, make_group, roster


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
