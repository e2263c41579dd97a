"""What has become of a hand-over's plan, from the states of its tasks and from what they left in XCom."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from splashify_provider.operators.plan import PLAN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@dataclass(frozen=True)
class HandoverTasks:
    """The ids of a hand-over's tasks; None where there is no such task."""

    plan: str
    approval: str | None
    assign: str
    write_back: str | None = None
    sources: tuple[str, ...] = ()  # that the plan gets its rows from


class Handover:
    """A hand-over as it stands.

    :param context: Airflow's task context.
    :param tasks: The tasks.
    """

    def __init__(self, context: Mapping[str, Any], tasks: HandoverTasks) -> None:
        ti = context["ti"]
        self._tasks = tasks
        ids = (tasks.plan, tasks.approval, tasks.assign, tasks.write_back)
        self._states = _states(context, [each for each in ids if each])
        self.plan: Mapping[str, Any] = ti.xcom_pull(task_ids=tasks.plan, key=PLAN) or {}
        self.chunks: list[Mapping[str, Any]] = list(ti.xcom_pull(task_ids=tasks.plan) or [])
        if self._states.get(tasks.plan) != "success":  # a plan that was made before is none any more
            is_of_this_try = self.plan.get("status") in ("too_old", "failed")
            self.plan, self.chunks = self.plan if is_of_this_try else {}, []
        # One result comes as it is, several as a list. Those of a longer or earlier plan count for nothing.
        pulled = ti.xcom_pull(task_ids=tasks.assign)
        self.results: dict[int, Mapping[str, Any]] = {
            result["map_index"]: result
            for result in ([pulled] if isinstance(pulled, dict) else pulled or [])
            if result and result["plan_id"] == self.plan.get("plan_id")
        }
        self.written: Mapping[str, int] = (tasks.write_back and ti.xcom_pull(task_ids=tasks.write_back)) or {}
        """How many ``moves`` were handed to write_back, and how many of them are ``written``; empty if it failed."""

    @property
    def has_no_plan(self) -> bool:
        """Whether planning, or what comes before it, failed; a plan that was skipped is no failure."""
        return self._states.get(self._tasks.plan) not in ("success", "skipped")

    @property
    def is_rejected(self) -> bool:
        """Whether the plan was not approved, so that nothing was to be moved."""
        return self._states.get(self._tasks.approval or "") == "success" and self._is_skipped

    @property
    def has_no_answer(self) -> bool:
        """Whether the approval failed or timed out."""
        return self._states.get(self._tasks.approval or "", "success") not in ("success", "skipped")

    @property
    def has_failed_to_write(self) -> bool:
        """Whether what was made is not written back."""
        state = self._states.get(self._tasks.write_back or "", "skipped")
        return state not in ("success", "skipped") and not self.written

    @property
    def sources(self) -> str:
        """The tasks to clear for a new plan, for a sentence: those that pull, if there are any."""
        return ", ".join(self._tasks.sources) or self._tasks.plan

    @property
    def what_plans(self) -> str:
        """The tasks that a plan comes from, for a sentence."""
        return ", ".join([*self._tasks.sources, self._tasks.plan])

    @property
    def _is_skipped(self) -> bool:
        return self._states.get(self._tasks.assign) == "skipped"

    def made(self) -> list[dict[str, Any]]:
        """Return the moves that were made: ``user_phone_number``, ``from_agent``, ``agent_email`` (who has it now)."""
        return [move for _, move, _ in self.made_by_place()]

    def made_by_place(self) -> Iterator[tuple[int, dict[str, Any], list[Any]]]:
        """Return the same, each with its place in the plan, and how else its number stands in the rows."""
        return (made for made in self._carried_out() if made[1]["agent_email"] != made[1]["from_agent"])

    @property
    def stayed(self) -> int:
        """How many conversations above an agent's limit stay, since who had room was refused."""
        return sum(move["agent_email"] == move["from_agent"] for _, move, _ in self._carried_out())

    @property
    def ended_at(self) -> datetime | None:
        """When the last of the moves was made; None if none was."""
        return max((datetime.fromisoformat(result["ended_at"]) for result in self.results.values()), default=None)

    @property
    def seconds(self) -> float:
        """How long it took to make them, from the first to the last."""
        if (end := self.ended_at) is None:
            return 0.0
        spans = ((datetime.fromisoformat(each["ended_at"]), each["seconds"]) for each in self.results.values())
        return (end - min(ended - timedelta(seconds=seconds) for ended, seconds in spans)).total_seconds()

    def _carried_out(self) -> Iterator[tuple[int, dict[str, Any], list[Any]]]:
        place = 0
        for index, chunk in enumerate(self.chunks):
            moves = [*chunk["assignments"], *chunk["releases"]]
            if result := self.results.get(index):
                not_done = set(_positions(result["not_done"]))
                holders = {each: agent for agent, runs in result["elsewhere"].items() for each in _positions(runs)}
                for position, move in enumerate(moves, 1):
                    if position not in not_done:
                        agent = holders.get(position, move.get("agent_email"))
                        made = {name: move[name] for name in ("user_phone_number", "from_agent")}
                        yield place + position, {**made, "agent_email": agent}, move.get("also_written", [])
            place += len(moves)

    @property
    def undone(self) -> int:
        """How many moves are not as they should be, those of tasks without a result among them."""
        return sum(int(result["undone"]) for result in self._valid_results()) + self.too_old + self.lost

    @property
    def skipped(self) -> int:
        """How many had no open conversation any more, and that was to be skipped."""
        return sum(len(list(_positions(each["not_done"]))) - int(each["undone"]) for each in self._valid_results())

    @property
    def too_old(self) -> int:
        """How many moves belong to tasks that skipped: the run had become too old by then."""
        return sum(size for state, size in self._without_result() if state == "skipped")

    @property
    def lost(self) -> int:
        """How many moves belong to tasks that ended without a result, as a killed one does."""
        return sum(size for state, size in self._without_result() if state != "skipped")

    def _valid_results(self) -> Iterator[Mapping[str, Any]]:
        return (self.results[index] for index in range(len(self.chunks)) if index in self.results)

    def _without_result(self) -> Iterator[tuple[str | None, int]]:
        for index, chunk in enumerate(self.chunks):
            if index not in self.results and not self._is_skipped:
                state = self._states.get(f"{self._tasks.assign}_{index}", self._states.get(self._tasks.assign))
                yield state, len(chunk["assignments"]) + len(chunk["releases"])


def _positions(runs: Sequence[Sequence[int]]) -> Iterator[int]:
    for first, last in runs:
        yield from range(first, last + 1)


def _states(context: Mapping[str, Any], task_ids: list[str]) -> dict[str, str | None]:
    """Return the states of tasks; of a mapped one's instances under ``id_index``."""
    ti = context["ti"]
    if hasattr(ti, "get_task_states"):
        found: Mapping[str, str | None] = ti.get_task_states(
            dag_id=ti.dag_id, task_ids=task_ids, run_ids=[context["run_id"]]
        ).get(context["run_id"], {})
        return {name: state and str(state) for name, state in found.items()}
    return {  # Airflow 2
        each.task_id if each.map_index < 0 else f"{each.task_id}_{each.map_index}": each.state and str(each.state)
        for each in context["dag_run"].get_task_instances()
        if each.task_id in task_ids
    }
