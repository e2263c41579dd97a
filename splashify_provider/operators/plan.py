"""The operator that plans a hand-over: rows in, a plan out, in chunks that the bulk operator carries out."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import timezone
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSkipException, conf

from splashify_provider.bulk.preflight import MOST_ROWS
from splashify_provider.bulk.sources import rows_of
from splashify_provider.exceptions import RoutingError, SplashifyConfigurationError, SplashifyError
from splashify_provider.operators.base import SplashifyOperator, due_at, parse_flag, skip_if_too_old
from splashify_provider.redaction import plural, redact, without_frames
from splashify_provider.retry_policy import DEFAULT_RETRY_POLICY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import timedelta

    from splashify_provider.routing.plan import Plan
    from splashify_provider.routing.policy import RoutingPolicy

MARKDOWN = "markdown"
PLAN = "plan"
"""The keys in XCom beside the chunks."""
WHY_LEFT_OUT = {"agent_inactive": "is inactive in Splashify", "agent_not_found": "is not in Splashify"}


class SplashifyPlanOperator(SplashifyOperator):
    """Plan who is to hold each open conversation, as of the moment the run was due, and show the plan in the log.

    XCom gets the plan in chunks, each a mapping of arguments for
    ``SplashifyPlannedAssignOperator.partial(...).expand_kwargs(plan.output)``: ``assignments`` (of each move
    ``user_phone_number`` as it was given, ``from_agent`` or None, ``agent_email``, and ``fallback_agents``, who is next
    in line; ``also_written`` where the same customer has other rows), ``releases`` and ``plan_id``. Besides, under
    ``plan``, ``status`` (``planned``, ``empty``, ``dry_run``, ``too_old`` or ``failed``), ``plan_id``, and what
    :meth:`Plan.summary` counts; under ``markdown`` the plan to read, with masked numbers.

    The same rows give the same plan, so the task may be retried and cleared.

    :param shifts: The roster: a list of rows with the fields of ``Shift`` or ``WeeklyShift``, another task's result,
        the same as JSON text, or the path of a JSON Lines or CSV file on anything ``ObjectStoragePath`` understands,
        for what is too large for XCom. (templated)
    :param conversations: The open conversations: the same, with the fields of ``Conversation``. (templated)
    :param policy: How conversations find agents; the defaults of ``RoutingPolicy`` unless given.
    :param map_up_to: Up to so many moves are a chunk each; more are one chunk. With 0 always one, for executors that
        start a pod for each task. Moves and releases never share a chunk. At most Airflow's ``[core] max_map_length``.
    :param check_agents: Whether to check first that Splashify knows each agent on duty who keeps a conversation, by
        assigning one of those to them again ("a no-op", says the vendor). Who is refused is left out, and what they
        hold is planned anew. The check is sent before anybody approves the plan; and if the table of holders is stale,
        it takes that one conversation back to whom the table names. A dry run checks nothing.
    :param splashify_conn_id: The Airflow connection. (templated)
    :param max_run_age: Skip, and all tasks downstream with it, if the run was due longer ago than this; see
        :class:`SplashifyAssignOperator`.
    :param dry_run: Show the plan, give no chunks and send nothing. True, False, or text that says so. (templated)
    :param retry_policy: Airflow 3.3 and later; waits as long as Splashify asks, unless given.
    """

    template_fields: Sequence[str] = ("shifts", "conversations", "splashify_conn_id", "is_dry_run")

    def __init__(
        self,
        *,
        shifts: Iterable[Any] | str,
        conversations: Iterable[Any] | str,
        policy: RoutingPolicy | None = None,
        map_up_to: int = 100,
        check_agents: bool = False,
        splashify_conn_id: str = "splashify_default",
        max_run_age: timedelta | None = None,
        dry_run: bool | str = False,
        retry_policy: Any = DEFAULT_RETRY_POLICY,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            splashify_conn_id=splashify_conn_id,
            max_run_age=max_run_age,
            dry_run=dry_run,
            retry_policy=retry_policy,
            **kwargs,
        )
        self.shifts = shifts
        self.conversations = conversations
        self.policy = policy
        self.map_up_to = map_up_to
        self.check_agents = check_agents

    def check_arguments(self) -> None:
        """Refuse arguments that are wrong.

        :raises SplashifyConfigurationError: Naming the argument.
        """
        super().check_arguments()
        self.check_agents = parse_flag("check_agents", self.check_agents)
        check_map_up_to(self.map_up_to)
        check_policy(self.policy)

    def execute(self, context: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Plan.

        :param context: Airflow's task context.
        :return: The chunks to carry out; none for a dry run.
        :raises AirflowSkipException: If the run is too old.
        :raises AirflowFailException: If arguments, rows or policy are wrong. The error is its cause.
        :raises SplashifyError: If agents can't be checked for a transient reason: Airflow's retries apply.
        """
        with self.airflow_errors():
            self.check_arguments()
            try:
                skip_if_too_old(context, self.max_run_age)
            except AirflowSkipException:
                _push(context, PLAN, {"status": "too_old"})
                raise
            try:
                plan, chunks = self._plan(context)
            except SplashifyError as error:
                _push(context, PLAN, {"status": "failed", "reason": error.reason})
                raise
            plan_id = uuid.uuid4().hex
            chunks = [{**chunk, "plan_id": plan_id} for chunk in chunks]
            status = "empty" if not chunks else "dry_run" if self.is_dry_run else "planned"
            zone = plan.timezone or getattr(context.get("dag"), "timezone", timezone.utc)
            self._show(plan.table(zone), status)
            _push(context, MARKDOWN, plan.markdown(zone))
            as_of = f"{plan.at.astimezone(zone):%Y-%m-%d %H:%M %Z}"
            _push(context, PLAN, {"status": status, "plan_id": plan_id, "as_of": as_of, **plan.summary()})
            return chunks if status == "planned" else []

    @without_frames(SplashifyError)  # their variables hold whole numbers
    def _plan(self, context: Mapping[str, Any]) -> tuple[Plan, list[dict[str, Any]]]:
        try:
            conversations = _read(self.conversations, "conversations", "user_phone_number")
            _check_holders(conversations)
            plan = self._checked_plan(context, conversations)
        except RoutingError as error:  # the same rows would give the same error
            sources = ", ".join(sorted(self.upstream_task_ids)) or "this task"
            error.message += f"\nCorrect them where they come from, then clear {sources}, with what is downstream."
            raise
        return plan, self._chunks(plan, conversations)

    def _checked_plan(self, context: Mapping[str, Any], conversations: list[Any]) -> Plan:
        from splashify_provider.routing.planner import plan_assignments  # not earlier: slow to load

        shifts = _read(self.shifts, "shifts", "agent_email")
        at, region = due_at(context), self.hook.client.settings.default_region
        unavailable: dict[str, str] = {}
        checked: set[str] = set()
        while True:
            plan = plan_assignments(
                conversations, shifts, at=at, policy=self.policy, default_region=region, unavailable=unavailable
            )
            if not self.check_agents or self.is_dry_run:
                return plan
            held: dict[str, list[str]] = {}
            fallback = self.policy.used_fallback if self.policy else None
            for kept in plan.kept:
                if kept.agent_email in {*plan.limits, fallback} - checked:
                    held.setdefault(str(kept.agent_email), []).append(kept.user_phone_number)
            if not held:
                return plan
            checked |= set(held)
            unavailable |= self._refused(held)

    def _refused(self, held: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Check agents by what they hold. Return who is refused, and why in words."""
        from splashify_provider.bulk.agent_check import find_refused_agents  # not earlier: loads an HTTP library

        self.log.info("Checking %s, by a conversation that each of them holds.", plural(len(held), "agent"))
        refused = find_refused_agents(self.hook.client, held)
        for agent, error in refused.items():
            self.log.warning("%s is left out of the plan: %s", agent, error.reason)
            self.log.warning("%s", error.remedy)
        return {agent: WHY_LEFT_OUT[error.outcome] for agent, error in refused.items()}

    def _chunks(self, plan: Plan, conversations: list[Any]) -> list[dict[str, Any]]:
        given = {  # a table's number may be no text
            str(row["user_phone_number"]): row["user_phone_number"]
            for row in conversations
            if isinstance(row, Mapping) and row.get("user_phone_number")
        }
        more = self._other_rows(plan, given)
        moves = [
            {
                "user_phone_number": given.get(move.user_phone_number, move.user_phone_number),
                "from_agent": move.from_agent,
                "agent_email": move.agent_email,
                "fallback_agents": list(move.fallback_agents),
                **more.get(move.user_phone_number, {}),
            }
            for move in plan.moves
        ]
        holders = {each.user_phone_number: each.from_agent for each in plan.unassigned}
        releases = [
            {"user_phone_number": given.get(phone, phone), "from_agent": holders[phone], **more.get(phone, {})}
            for phone in plan.releases
        ]
        is_mapped = len(moves) <= self.map_up_to and len(moves) + bool(releases) <= _max_map_length()
        chunks = [[move] for move in moves] if is_mapped else [moves]
        return [
            *({"assignments": chunk, "releases": []} for chunk in chunks if chunk),
            *([{"assignments": [], "releases": releases}] if releases else []),
        ]

    def _other_rows(self, plan: Plan, given: Mapping[str, Any]) -> dict[str, dict[str, list[Any]]]:
        """Return how else numbers stand in the rows: each spelling of a customer's has a row to write back to."""
        decided = {each.user_phone_number for each in (*plan.moves, *plan.kept, *plan.unassigned)}
        if not (others := given.keys() - decided):
            return {}
        from splashify_provider.routing.conversations import customer_key  # not earlier: slow to load

        region = self.hook.client.settings.default_region
        by_customer = {customer_key(phone, region): phone for phone in decided}
        found: dict[str, dict[str, list[Any]]] = {}
        for phone in sorted(others):
            one = found.setdefault(by_customer[customer_key(phone, region)], {"also_written": []})
            one["also_written"].append(given[phone])
        return found

    def _show(self, table: str, status: str) -> None:
        for line in table.splitlines():  # a line each: log viewers show a line break as they like
            self.log.info("%s", line)
        if status == "dry_run":
            unchecked = ", and agents were not checked" if self.check_agents else ""
            self.log.info("Dry run: nothing is sent%s.", unchecked)
            self.log.info(
                "To hand over, set dry_run to False in the DAG (or, where it is a param, in the trigger form)."
            )
        elif status == "empty":
            self.log.info("Nothing has to change.")
        self.log.info("%s", table.partition("\n")[0])  # again, since most viewers open at the end


def _read(given: object, name: str, column: str) -> list[Any]:
    """Read all rows of an argument, which a file may have without end. A CSV file must have the column."""
    rows = list(islice(rows_of(given, name, (column,)), MOST_ROWS + 1))
    if len(rows) > MOST_ROWS:
        raise SplashifyConfigurationError(
            f"There are more than {MOST_ROWS:,} {name}. Nothing was sent.\nGive only those that count at the moment of "
            "the run."
        )
    return rows


def _check_holders(conversations: list[Any]) -> None:
    """Refuse rows of which none says who holds the conversation: a forgotten column must not read as nobody."""
    rows = [row for row in conversations if isinstance(row, Mapping)]
    if rows and not any(str(name).lower() == "agent_email" for row in rows for name in row):
        raise RoutingError(
            f"The conversations have no column agent_email (their columns: {redact(', '.join(map(str, rows[0])))}), so "
            "who holds them is not known. Give each of them agent_email, NULL where nobody does."
        )


def check_policy(policy: object) -> None:
    """Check a policy.

    :param policy: The argument.
    :raises SplashifyConfigurationError: If it is none.
    """
    if policy is None:  # a DAG that has no policy loads no routing when it is parsed
        return
    from splashify_provider.routing.policy import RoutingPolicy

    if not isinstance(policy, RoutingPolicy):
        raise SplashifyConfigurationError(
            f"policy must be a RoutingPolicy, as in RoutingPolicy(nobody_on_duty='leave'), not {redact(repr(policy))}."
        )


def check_map_up_to(map_up_to: object) -> None:
    """Check a number of moves to map.

    :param map_up_to: The argument.
    :raises SplashifyConfigurationError: If it is no such number, or Airflow maps fewer tasks.
    """
    if not isinstance(map_up_to, int) or isinstance(map_up_to, bool) or map_up_to < 0:
        raise SplashifyConfigurationError(
            f"map_up_to must be a whole number, 0 or more, not {redact(repr(map_up_to))}."
        )
    if map_up_to > (most := _max_map_length()):
        raise SplashifyConfigurationError(
            f"map_up_to is {map_up_to:,}, and Airflow maps at most {most:,} tasks ([core] max_map_length).\n"
            f"Set map_up_to to {most:,} at most: more moves than that are handed over as one task."
        )


def _max_map_length() -> int:
    return int(conf.getint("core", "max_map_length", fallback=1024))


def _push(context: Mapping[str, Any], key: str, value: object) -> None:
    if (ti := context.get("ti")) is not None:
        ti.xcom_push(key=key, value=value)
