"""The ends of a hand-over: what was made is written back to where it came from, and told in one screen."""

from __future__ import annotations

from collections import Counter
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
_CLEAR = "Clear the failed tasks of this run (Clear, Only Failed): what is done is not sent again."


class SplashifyWriteBackOperator(BaseOperator):
    """Hand the moves that were made to a function that writes them where the conversations came from.

    It fails as long as moves of the plan are not done, after it has written those that are: Airflow's "clear failed"
    clears red tasks only, and has to write what it sends.

    :param tasks: The ids of the hand-over's tasks.
    :param write_back: Called with the moves, mappings of ``user_phone_number`` (as it was given), ``from_agent`` (or
        None) and ``agent_email`` (who has it now; None where it was released). Called again with the same moves when
        the task is retried or cleared.
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

    def execute(self, context: Mapping[str, Any]) -> int:
        """Write.

        :param context: Airflow's task context.
        :return: How many moves were handed to the function.
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
        if made:
            self.write_back(handover.made())
            self.log.info("%s handed to write_back.", plural(made, "move"))
            context["ti"].xcom_push(key="return_value", value=made)  # which a failing task doesn't return
        if handover.undone:
            raise AirflowFailException(
                f"{plural(handover.undone, 'move')} of the plan not done; {made:,} done and written.\n"
                "Clear the failed tasks of this run once their cause is gone. This one is among them, to write what "
                "they will have done."
            )
        if not made:
            raise AirflowSkipException("Nothing was moved, so there is nothing to write.")
        return made


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
            return ["There is no plan: planning, or a task that it gets its rows from, failed."]
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
        for agent, why in self._handover.plan.get("unavailable", {}).items():
            yield f"Left out of the plan: {redact(agent)} {redact(why)}."
        for (agent, cause), refused in self._refused.items():
            yield (
                f"Refused by Splashify: {redact(agent)} ({cause.removeprefix('agent_').replace('_', ' ')}): "
                f"{refused['elsewhere']:,} went to the next in line, {refused['failed']:,} failed."
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
            "dry_run": "A dry run: nothing was moved (see the task that plans).",
            "empty": f"Nothing had to be moved: {counts['kept']:,} kept{left}.",
            "rejected": "Nothing was moved: the plan was not approved.",
            "failed": "Nothing was moved: there is no plan.",
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
        return [*remedies, "Then clear" + _CLEAR.removeprefix("Clear") if remedies else _CLEAR]

    def _kinds(self) -> dict[str, tuple[Mapping[str, Any], int]]:
        """Return the first failure of each kind that is not told by agent, and how many there are."""
        kinds: dict[str, tuple[Mapping[str, Any], int]] = {}
        for result in self._handover.results.values():
            for failure in result["failures"]:
                if failure["outcome"] not in _REMEDIES:
                    first, count = kinds.get(failure["outcome"], (failure, 0))
                    kinds[failure["outcome"]] = first, count + 1
        return kinds
