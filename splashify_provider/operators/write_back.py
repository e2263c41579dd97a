"""What a hand-over has made is written back to where its conversations came from."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSkipException, BaseOperator

from splashify_provider.operators.handover_state import Handover
from splashify_provider.redaction import plural
from splashify_provider.task_errors import fail_at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import timedelta

    from splashify_provider.operators.handover_state import HandoverTasks


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
            raise fail_at_once("There is no plan, so nothing can be written back.\nSee what failed before it.")
        made = len(handover.made())  # not kept here: a frame's variables may be shown
        age = datetime.now(timezone.utc) - handover.ended_at if handover.ended_at else None
        if made and age and self.max_run_age and age > self.max_run_age:
            raise fail_at_once(
                f"{plural(made, 'move')} made longer than max_run_age ago: not written any more, since newer runs "
                "have planned since.\nIf the table lacks them, correct it by hand, and mark this task as success."
            )
        written = {}
        if made:
            written = self._write(handover, context.get("task_state_store"))
            context["ti"].xcom_push(key="return_value", value=written)  # which a failing task doesn't return
        if handover.undone:
            raise fail_at_once(
                f"{plural(handover.undone, 'move')} of the plan not done; {made:,} done and handed to write_back.\n"
                "Clear the failed tasks of this run once their cause is gone. This one is among them, to write what "
                "they will have done."
            )
        if not made:
            raise AirflowSkipException("Nothing was moved, so there is nothing to write.")
        return written

    def _write(self, handover: Handover, store: Any) -> dict[str, int]:
        memory = _Memory(store, handover.plan["plan_id"])
        moves = sum(1 + len(also) for _, _, also in handover.made_by_place())
        said = self.write_back(memory.moves_of(handover))
        memory.keep(handover)
        self.log.info("%s handed to write_back.", plural(moves, "move"))
        written = moves
        if isinstance(said, int) and not isinstance(said, bool) and 0 <= said <= moves:
            written = said
        return {"moves": moves, "written": written}


class _Memory:
    """Whom this run has written already, in Airflow's task state store (3.3 and later).

    They are the former holders, should a cleared task have given a conversation to somebody else.

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
        by_agent = kept["places"] if kept.get("plan_id") == plan_id else {}
        self._written = {place: agent for agent, places in by_agent.items() for place in places}

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
