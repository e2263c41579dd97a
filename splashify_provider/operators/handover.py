"""The ends of a hand-over: what its plan has come to, written back to where it came from, and told in one screen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException, BaseOperator

from splashify_provider.operators.plan import PLAN
from splashify_provider.redaction import plural, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import timedelta

    Move = Mapping[str, Any]
    WriteBack = Callable[[list[dict[str, Any]]], object]

_MOST_SHOWN = 10
_REMEDIES = {
    "agent_inactive": "Enable {} in Splashify under Settings → Team, or take them off the roster.",
    "agent_not_found": "Add {} in Splashify under Settings → Team, or correct the address on the roster.",
}
_NOTHING_RAN = ("skipped", "removed", None)


@dataclass(frozen=True)
class HandoverTasks:
    """The ids of a hand-over's tasks; None where there is no such task."""

    plan: str
    approval: str | None
    assign: str
    write_back: str | None = None


class Handover:
    """What has become of a plan, from the states of its tasks and from what they left in XCom.

    :param context: Airflow's task context.
    :param tasks: The tasks.
    """

    def __init__(self, context: Mapping[str, Any], tasks: HandoverTasks) -> None:
        ti = context["ti"]
        self._tasks = tasks
        self._states = _states(context, [each for each in vars(tasks).values() if each])
        self.plan: Mapping[str, Any] = ti.xcom_pull(task_ids=tasks.plan, key=PLAN) or {}
        self.chunks: list[Mapping[str, Any]] = ti.xcom_pull(task_ids=tasks.plan) or []
        # One result comes as it is, several as a list. Those of a longer or earlier plan count for nothing.
        pulled = ti.xcom_pull(task_ids=tasks.assign)
        self.results: dict[int, Mapping[str, Any]] = {
            result["map_index"]: result
            for result in ([pulled] if isinstance(pulled, dict) else pulled or [])
            if result and result["plan_id"] == self.plan.get("plan_id")
        }

    @property
    def has_no_plan(self) -> bool:
        """Whether planning, or what comes before it, failed; a plan that was skipped is no failure."""
        return self._states.get(self._tasks.plan) not in ("success", "skipped")

    @property
    def is_rejected(self) -> bool:
        """Whether the plan was not approved, so that nothing was to be moved."""
        return self._states.get(self._tasks.approval or "") == "success" and self._is_skipped

    @property
    def is_written(self) -> bool:
        """Whether what was made is written back, or there was nothing to write."""
        return self._states.get(self._tasks.write_back or "", "skipped") in ("success", "skipped")

    @property
    def _is_skipped(self) -> bool:
        return self._states.get(self._tasks.assign) == "skipped"

    def made(self, since: datetime | None = None) -> list[dict[str, Any]]:
        """Return the moves that were made: ``user_phone_number``, ``from_agent``, and ``agent_email``, who has it now.

        :param since: Leave out what was made before.
        """
        return [move for move in self._carried_out(since) if move["agent_email"] != move["from_agent"]]

    @property
    def stayed(self) -> int:
        """How many stayed where they were: next in line for what is above somebody's limit are they themselves."""
        return sum(move["agent_email"] == move["from_agent"] for move in self._carried_out(None))

    def _carried_out(self, since: datetime | None) -> Iterator[dict[str, Any]]:
        for index, chunk in enumerate(self.chunks):
            result = self.results.get(index)
            if result is None or (since and datetime.fromisoformat(result["ended_at"]) < since):
                continue
            not_done = set(_positions(result["not_done"]))
            holders = {position: agent for agent, runs in result["elsewhere"].items() for position in _positions(runs)}
            for position, move in enumerate([*chunk["assignments"], *chunk["releases"]], 1):
                if position not in not_done:
                    yield {
                        "user_phone_number": move["user_phone_number"],
                        "from_agent": move["from_agent"],
                        "agent_email": holders.get(position, move.get("agent_email")),
                    }

    @property
    def undone(self) -> int:
        """How many moves are not as they should be, those of a task without a result (a killed one) among them."""
        return sum(
            result["undone"] if (result := self.results.get(index)) else self._lost(index, chunk)
            for index, chunk in enumerate(self.chunks)
        )

    @property
    def lost(self) -> int:
        """How many moves belong to tasks that left no result."""
        lost = (self._lost(index, chunk) for index, chunk in enumerate(self.chunks) if index not in self.results)
        return sum(lost)

    def _lost(self, index: int, chunk: Mapping[str, Any]) -> int:
        state = self._states.get(f"{self._tasks.assign}_{index}", self._states.get(self._tasks.assign))
        return 0 if state in _NOTHING_RAN else len(chunk["assignments"]) + len(chunk["releases"])


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


class SplashifyWriteBackOperator(BaseOperator):
    """Hand the moves that were made to a function that writes them where the conversations came from.

    It fails as long as moves of the plan are not done, after it has written those that are: Airflow's "clear failed"
    clears red tasks only, and has to write what it sends.

    :param tasks: The ids of the hand-over's tasks.
    :param write_back: Called with the moves, mappings of ``user_phone_number`` (as it was given), ``from_agent`` (or
        None) and ``agent_email`` (who has it now; None where it was released). Called again with the same moves when
        the task is retried or cleared.
    :param max_run_age: Moves that were made longer ago than this are not written any more.
    """

    ui_color = "#d9fdd3"

    def __init__(
        self, *, tasks: HandoverTasks, write_back: WriteBack, max_run_age: timedelta | None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.tasks = tasks
        self.write_back = write_back
        self.max_run_age = max_run_age

    def execute(self, context: Mapping[str, Any]) -> int:
        """Write.

        :param context: Airflow's task context.
        :return: How many moves were handed to the function.
        :raises AirflowSkipException: If nothing was to be moved.
        :raises AirflowFailException: If there is no plan, or moves are not done.
        """
        handover = Handover(context, self.tasks)
        if handover.has_no_plan:
            raise AirflowFailException("There is no plan, so nothing can be written back.\nSee what failed before it.")
        since = datetime.now(timezone.utc) - self.max_run_age if self.max_run_age else None
        made = handover.made(since)
        if old := len(handover.made()) - len(made):
            self.log.warning("%s made longer ago than max_run_age: not written any more.", plural(old, "move"))
        if made:
            self.write_back(made)
        self.log.info("%s handed to write_back.", plural(len(made), "move"))
        if handover.undone:
            raise AirflowFailException(
                f"{plural(handover.undone, 'move')} of the plan not done yet; "
                f"{'the others are' if made else 'nothing was'} written.\n"
                "Clear the failed tasks of this run once their cause is gone: this one is among them on purpose, to "
                "write what they will have done."
            )
        if not made:
            raise AirflowSkipException("Nothing was moved, so there is nothing to write.")
        return len(made)


class SplashifyHandoverSummaryOperator(BaseOperator):
    """Tell in one screen what a hand-over has come to, and fail if anything of it failed.

    XCom gets ``status``, ``moved``, ``kept``, ``skipped``, ``failed`` and ``refused_agents``, also when it fails.

    :param tasks: The ids of the hand-over's tasks.
    """

    ui_color = "#d9fdd3"

    def __init__(self, *, tasks: HandoverTasks, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tasks = tasks

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Tell.

        :param context: Airflow's task context.
        :return: What is counted.
        :raises AirflowFailException: If something failed.
        """
        handover = Handover(context, self.tasks)
        summary = Summary(handover)
        context["ti"].xcom_push(key="return_value", value=summary.counts)
        for line in summary.lines:
            self.log.info("%s", line)
        for line in summary.what_to_do:
            self.log.warning("%s", line)
        if summary.failure:
            raise AirflowFailException("\n".join([summary.failure, *summary.what_to_do]))
        return summary.counts


class Summary:
    """A hand-over in words.

    :param handover: What has become of it.
    """

    def __init__(self, handover: Handover) -> None:
        self._handover = handover
        results = handover.results.values()
        self._failures = [failure for result in results for failure in result["failures"]]
        self._refused: dict[tuple[str, str], Counter[str]] = {}
        for result in results:
            for agent, refused in result["refused_agents"].items():
                counts = self._refused.setdefault((agent, refused["cause"]), Counter())
                counts.update(elsewhere=refused["elsewhere"], failed=refused["failed"])
        outcomes = Counter[str]()
        for result in results:
            outcomes.update(result["counts"])
            outcomes.update(result["done_before"])
        plan = handover.plan
        self.counts: dict[str, Any] = {
            "status": "rejected"
            if handover.is_rejected
            else plan.get("status", "failed" if self.failure else "skipped"),
            "moved": len(handover.made()),
            "kept": plan.get("kept", 0) + handover.stayed,
            "skipped": outcomes["conversation_not_found"],
            "failed": handover.undone,
            "refused_agents": {agent: {"cause": cause, **counts} for (agent, cause), counts in self._refused.items()},
        }

    @property
    def failure(self) -> str:
        """What failed, in a sentence; empty if nothing did."""
        handover = self._handover
        if handover.has_no_plan:
            return "There is no plan: planning, or a task that it gets its rows from, failed."
        if handover.undone:
            return f"{plural(handover.undone, 'move')} of the plan not done."
        if not handover.is_written:
            return "Everything is moved, but it could not be written back."
        return ""

    @property
    def lines(self) -> Iterator[str]:
        """What happened."""
        plan, counts = self._handover.plan, self.counts
        status = {
            "skipped": "Nothing was planned: what comes before was skipped.",
            "too_old": "Nothing was moved: the run is too old (see the task that plans).",
            "dry_run": "A dry run: nothing was moved (see the task that plans).",
            "empty": f"Nothing had to be moved; {counts['kept']:,} kept.",
            "rejected": "Nothing was moved: the plan was not approved.",
        }
        if counts["status"] in status:
            yield status[counts["status"]]
        elif counts["status"] == "planned":
            seconds = max((result["seconds"] for result in self._handover.results.values()), default=0.0)
            yield (
                f"As of {plan['as_of']}: {counts['moved']:,} moved, {counts['kept']:,} kept, "
                f"{counts['skipped']:,} skipped (no open conversation any more), {counts['failed']:,} failed; "
                f"sending took {seconds:,.0f} s."
            )
        for agent, why in plan.get("unavailable", {}).items():
            yield f"Left out of the plan: {redact(agent)} {redact(why)}."
        for (agent, cause), refused in self._refused.items():
            yield (
                f"Refused by Splashify: {redact(agent)} ({cause.removeprefix('agent_').replace('_', ' ')}): "
                f"{refused['elsewhere']:,} went to the next in line, {refused['failed']:,} failed."
            )
        if lost := self._handover.lost:
            yield f"Without a result: {plural(lost, 'move')} (their tasks' logs say why; a killed worker leaves none)."
        for failure, count in list(self._kinds().values())[:_MOST_SHOWN]:
            reason = failure["message"].partition("\n")[0]
            yield f"Failed, {count:,} like this: {failure['user_phone_number']} → {failure['agent_email']}: {reason}"

    @property
    def what_to_do(self) -> list[str]:
        """What to do next, if there is anything."""
        remedies = []
        for cause, remedy in _REMEDIES.items():
            if agents := [redact(agent) for agent, why in self._refused if why == cause]:
                more = f" and {len(agents) - _MOST_SHOWN:,} more" if len(agents) > _MOST_SHOWN else ""
                remedies.append(remedy.format(", ".join(agents[:_MOST_SHOWN]) + more))
        if self.failure:
            others = (failure["message"].partition("\n")[2] for failure, _ in self._kinds().values())
            remedies += [remedy for remedy in dict.fromkeys(others) if remedy][:_MOST_SHOWN]
            clear = "lear the failed tasks of this run (Clear, Only Failed): what is done is not sent again."
            remedies.append(f"Then c{clear}" if remedies else f"C{clear}")
        return remedies

    def _kinds(self) -> dict[object, tuple[Mapping[str, Any], int]]:
        """Return the first failure of each kind that is not told by agent, and how many there are."""
        kinds: dict[object, tuple[Mapping[str, Any], int]] = {}
        for failure in self._failures:
            if failure["outcome"] not in ("agent_not_found", "agent_inactive"):
                first, count = kinds.get(failure["outcome"], (failure, 0))
                kinds[failure["outcome"]] = first, count + 1
        return kinds
