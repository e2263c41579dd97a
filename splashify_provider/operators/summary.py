"""What a hand-over has come to, told in one screen."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from splashify_provider.operators.handover_state import Handover
from splashify_provider.operators.plan import WHY_LEFT_OUT
from splashify_provider.redaction import plural, redact
from splashify_provider.task_errors import fail_at_once

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from splashify_provider.operators.handover_state import HandoverTasks

_MOST_SHOWN = 10
_REMEDIES = {
    "agent_inactive": "Enable {} in Splashify under Settings → Team, or take them off the roster.",
    "agent_not_found": "Add {} in Splashify under Settings → Team, or correct the address on the roster.",
}


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
        if summary.failures:
            raise fail_at_once("\n".join([" ".join(summary.failures), *summary.what_to_do]))
        for line in summary.what_to_do:
            self.log.warning("%s", line)
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
            reason = handover.plan.get("reason") or f"see the log of {handover.what_plans}."
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
        if self._handover.has_no_plan:
            return [f"Fix that, then clear {self._handover.sources} with Downstream, for a new plan."]
        remedies.append(
            "After a change in Splashify, or none: clear the failed tasks of this run (Clear, Only Failed). What is "
            "done is not sent again."
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
