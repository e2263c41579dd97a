"""The ends of a hand-over: what was made is written back to where it came from, and told in one screen."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException, BaseOperator

from splashify_provider.operators.handover_state import Handover
from splashify_provider.operators.plan import WHY_LEFT_OUT
from splashify_provider.redaction import plural, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import timedelta

    from splashify_provider.operators.handover_state import HandoverTasks

_MOST_SHOWN = 10
_REMEDIES = {
    "agent_inactive": "Enable {} in Splashify under Settings → Team, or take them off the roster.",
    "agent_not_found": "Add {} in Splashify under Settings → Team, or correct the address on the roster.",
}


class SplashifyWriteBackOperator(BaseOperator):
    """Hand the moves that were made to a function that writes them where the conversations came from.

    It fails as long as moves of the plan are not done, after it has written those that are: Airflow's "clear failed"
    clears red tasks only, and has to write what it sends.

    :param tasks: The ids of the hand-over's tasks.
    :param write_back: Called with the moves, mappings of ``user_phone_number`` (as it was given), ``from_agent`` (or
        None) and ``agent_email`` (who has it now; None where it was released). Called again with the same moves when
        the task is retried or cleared. If it returns a number, it is how many of them are written now.
    :param max_run_age: Moves that were made longer ago than this are not written any more: newer runs have planned
        since.
    """

    ui_color = "#d9fdd3"

    def __init__(
        self,
        *,
        tasks: HandoverTasks,
        write_back: Callable[[list[dict[str, Any]]], object],
        max_run_age: timedelta | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tasks = tasks
        self.write_back = write_back
        self.max_run_age = max_run_age

    def execute(self, context: Mapping[str, Any]) -> dict[str, int]:
        """Write.

        :param context: Airflow's task context.
        :return: How many ``moves`` were handed to the function, and how many are ``written``, if it says so.
        :raises AirflowSkipException: If nothing was to be moved.
        :raises AirflowFailException: If there is no plan, moves are not done, or they were made too long ago.
        """
        handover = Handover(context, self.tasks)
        if handover.has_no_plan:
            raise AirflowFailException("There is no plan, so nothing can be written back.\nSee what failed before it.")
        made = len(handover.made())  # not kept here: a frame's variables may be shown
        age = datetime.now(timezone.utc) - handover.ended_at if handover.ended_at else None
        if made and age and self.max_run_age and age > self.max_run_age:
            raise AirflowFailException(
                f"{plural(made, 'move')} made longer than max_run_age ago: not written any more, since newer runs "
                "have planned since.\nIf the table lacks them, correct it by hand, and mark this task as success."
            )
        written: dict[str, int] = {}
        if made:
            memory = _Memory(context.get("task_state_store"), handover.plan["plan_id"])
            rows = len(memory.moves_of(handover))
            said = self.write_back(memory.moves_of(handover))
            memory.keep(handover)
            is_count = isinstance(said, int) and not isinstance(said, bool) and 0 <= said <= rows
            written |= {"moves": rows, "written": int(str(said)) if is_count else rows}
            self.log.info("%s handed to write_back.", plural(rows, "move"))
            context["ti"].xcom_push(key="return_value", value=written)  # which a failing task doesn't return
        if handover.undone:
            raise AirflowFailException(
                f"{plural(handover.undone, 'move')} of the plan not done; {made:,} done and handed to write_back.\n"
                "Clear the failed tasks of this run once their cause is gone. This one is among them, to write what "
                "they will have done."
            )
        if not made:
            raise AirflowSkipException("Nothing was moved, so there is nothing to write.")
        return written


class _Memory:
    """Whom this run has written already, in Airflow's task state store (3.3 and later): they are the former holders,
    should a cleared task have given a conversation to somebody else.

    :param store: The write-back's own.
    :param plan_id: Whose moves: a plan that is made anew knows what was written.
    """

    _NAME = "splashify_written"

    def __init__(self, store: Any, plan_id: str) -> None:
        self._store, self._plan_id = store, plan_id
        try:
            kept = json.loads(store.get(self._NAME) or "{}") if store is not None else {}
        except Exception:  # without it, a row that has changed since is left alone
            kept = {}
        is_ours = kept.get("plan_id") == plan_id
        runs = kept["places"].items() if is_ours else ()
        self._written = {place: agent for agent, places in runs for place in places}

    def moves_of(self, handover: Handover) -> list[dict[str, Any]]:
        """Return the moves for the function, one for each row."""
        moves = []
        for place, move, also in handover.made_by_place():
            former = self._written.get(place)
            if former and former != move["agent_email"]:
                move["from_agent"] = former
            moves += [move, *({**move, "user_phone_number": phone} for phone in also)]
        return moves

    def keep(self, handover: Handover) -> None:
        """Remember whom the moves were written to."""
        places: dict[str, list[int]] = {}
        for place, move, _ in handover.made_by_place():
            if move["agent_email"]:
                places.setdefault(move["agent_email"], []).append(place)
        if self._store is not None:
            with suppress(Exception):  # as above
                self._store.set(self._NAME, json.dumps({"plan_id": self._plan_id, "places": places}))


class SplashifyHandoverSummaryOperator(BaseOperator):
    """Tell in one screen what a hand-over has come to, and fail if anything of it failed.

    XCom gets ``status``, ``moved``, ``kept``, ``unassigned``, ``skipped``, ``failed`` and ``refused_agents``, also when
    it fails.

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
        summary = Summary(Handover(context, self.tasks))
        context["ti"].xcom_push(key="return_value", value=summary.counts)
        for line in summary.lines:
            self.log.info("%s", line)
        for line in summary.what_to_do:
            self.log.warning("%s", line)
        if summary.failures:
            raise AirflowFailException("\n".join([" ".join(summary.failures), *summary.what_to_do]))
        return summary.counts


class Summary:
    """A hand-over in words.

    :param handover: What has become of it.
    """

    def __init__(self, handover: Handover) -> None:
        self._handover = handover
        self._refused: dict[tuple[str, str], Counter[str]] = {}
        for result in handover.results.values():
            for agent, refused in result["refused_agents"].items():
                counts = self._refused.setdefault((agent, refused["cause"]), Counter())
                counts.update(elsewhere=refused["elsewhere"], failed=refused["failed"])
        plan = handover.plan
        status = plan.get("status", "failed" if handover.has_no_plan else "skipped")
        self.counts: dict[str, Any] = {
            "status": "rejected" if handover.is_rejected else status,
            "moved": len(handover.made()),
            "kept": plan.get("kept", 0) + handover.stayed,
            "unassigned": plan.get("unassigned", 0) - plan.get("releases", 0),
            "skipped": handover.skipped,
            "failed": handover.undone,
            "refused_agents": {agent: {"cause": cause, **counts} for (agent, cause), counts in self._refused.items()},
        }

    @property
    def failures(self) -> list[str]:
        """What failed, in sentences."""
        handover = self._handover
        if handover.has_no_plan:
            reason = handover.plan.get("reason") or f"see {handover.sources}, and the task that plans."
            return [f"There is no plan: {reason}"]
        if handover.has_no_answer:
            return ["Nothing was moved: the approval failed or timed out."]
        failures = [f"{plural(handover.undone, 'move')} of the plan not done."] if handover.undone else []
        if self.counts["moved"] and handover.has_failed_to_write:
            failures.append(f"{plural(self.counts['moved'], 'move')} made and not written back: see write_back.")
        return failures

    @property
    def lines(self) -> Iterator[str]:
        """What happened."""
        yield self._headline()
        if stayed := self._handover.stayed:
            yield f"{plural(stayed, 'conversation')} above a limit stay: who had room was refused, the holder is next."
        if unwritten := self._handover.written.get("moves", 0) - self._handover.written.get("written", 0):
            yield f"{plural(unwritten, 'move')} not written back, as the rows have changed: see the log of write_back."
        for agent, why in self._handover.plan.get("unavailable", {}).items():
            yield f"Left out of the plan: {redact(agent)} {redact(why)}."
        for (agent, cause), refused in self._refused.items():
            yield (
                f"Refused by Splashify: {redact(agent)} ({cause.removeprefix('agent_').replace('_', ' ')}): "
                f"{refused['elsewhere']:,} went to the next in line, {refused['failed']:,} had nobody left."
            )
        if self._handover.too_old:
            yield f"{plural(self._handover.too_old, 'move')} not made: the run was older than max_run_age by then."
        if self._handover.lost and not self._handover.has_no_answer:
            yield f"Without a result: {plural(self._handover.lost, 'move')}; their tasks' logs say why, if any."
        for failure, count in list(self._kinds().values())[:_MOST_SHOWN]:
            reason = failure["message"].partition("\n")[0]
            yield f"Failed, {count:,} like this: {failure['user_phone_number']} → {failure['agent_email']}: {reason}"

    def _headline(self) -> str:
        counts, plan = self.counts, self._handover.plan
        left = f", {counts['unassigned']:,} left without an agent on duty" if counts["unassigned"] else ""
        if counts["status"] == "planned":
            return (
                f"As of {plan['as_of']}: {counts['moved']:,} moved, {counts['kept']:,} kept{left}, "
                f"{counts['skipped']:,} skipped (no open conversation any more), {counts['failed']:,} failed; "
                f"it took {self._handover.seconds:,.0f} s to send."
            )
        return {
            "skipped": "Nothing was planned: what comes before was skipped.",
            "too_old": "Nothing was moved: the run is too old (see the task that plans).",
            "dry_run": f"A dry run, nothing moved: {plan.get('moves', 0):,} to move, {counts['kept']:,} kept{left}.",
            "empty": f"Nothing had to be moved: {counts['kept']:,} kept{left}.",
            "rejected": "Nothing was moved: the plan was not approved.",
            "failed": "Nothing was moved.",
        }[counts["status"]]

    @property
    def what_to_do(self) -> list[str]:
        """What to do next, if there is anything."""
        left_out = self._handover.plan.get("unavailable", {}).items()
        causes = {words: cause for cause, words in WHY_LEFT_OUT.items()}
        agents = [*self._refused, *((agent, causes.get(why, "")) for agent, why in left_out)]
        remedies = []
        for cause, remedy in _REMEDIES.items():
            if names := [redact(agent) for agent, why in agents if why == cause]:
                more = f" and {len(names) - _MOST_SHOWN:,} more" if len(names) > _MOST_SHOWN else ""
                remedies.append(remedy.format(", ".join(names[:_MOST_SHOWN]) + more))
        if not self.failures:
            return remedies
        others = (failure["message"].partition("\n")[2] for failure, _ in self._kinds().values())
        remedies += [remedy for remedy in dict.fromkeys(others) if remedy][:_MOST_SHOWN]
        if self._handover.too_old:
            remedies.append("Trigger a new run: this one is too old to move anything.")
        if not self._handover.has_no_plan:
            remedies.append(
                "After a change in Splashify, or none: clear the failed tasks of this run (Clear, Only Failed). What "
                "is done is not sent again."
            )
        again = f"After a change of your rows: clear {self._handover.sources} with Downstream, for a new plan."
        return [*remedies, again]

    def _kinds(self) -> dict[str, tuple[Mapping[str, Any], int]]:
        """Return the first failure of each kind that is not told by agent, and how many there are."""
        kinds: dict[str, tuple[Mapping[str, Any], int]] = {}
        for result in self._handover.results.values():
            for failure in result["failures"]:
                if failure["outcome"] not in _REMEDIES:
                    first, count = kinds.get(failure["outcome"], (failure, 0))
                    kinds[failure["outcome"]] = first, count + 1
        return kinds
