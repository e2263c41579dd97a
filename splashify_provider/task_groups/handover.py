"""A whole hand-over as one task group: plan, approve, assign, write back, and tell what has come of it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import AirflowException, TaskGroup

from splashify_provider.exceptions import SplashifyConfigurationError
from splashify_provider.operators.base import check_choice, check_max_run_age, parse_flag
from splashify_provider.operators.bulk import SplashifyPlannedAssignOperator
from splashify_provider.operators.handover_state import HandoverTasks
from splashify_provider.operators.plan import MARKDOWN, SplashifyPlanOperator, check_map_up_to, check_policy
from splashify_provider.operators.summary import SplashifyHandoverSummaryOperator
from splashify_provider.operators.write_back import SplashifyWriteBackOperator
from splashify_provider.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow.providers.common.compat.sdk import BaseOperator, MappedOperator

    from splashify_provider.routing.policy import RoutingPolicy

_OURS = {"task_id", "plan_task_id", "trigger_rule", "do_xcom_push"}


class SplashifyHandoverTaskGroup(TaskGroup):
    """Hand open conversations over to those who are on duty: 20 of them or 5,000, with the same DAG.

    Its tasks are attributes, to hang more tasks on: ``plan``, ``approval`` (None without one), ``assign``,
    ``write_back`` (None without one) and ``summary``, the last. Every one of them may be retried and cleared.

    :param group_id: The group's id, which its tasks' ids begin with.
    :param shifts: The roster; see :class:`SplashifyPlanOperator`. Any task's output, or rows. (templated)
    :param conversations: The open conversations; the same. (templated)
    :param policy: How conversations find agents; the defaults of ``RoutingPolicy`` unless given.
    :param map_up_to: Up to so many moves have a task each, in the grid to read, retry and clear; more are one task's.
        With 0 always one task, for executors that start a pod for each.
    :param max_run_age: A run that was due longer ago than this moves nothing, and ends green.
    :param dry_run: Show the plan, and send nothing: True, False, or text that says so. (templated)
    :param approval: Ask a person before anything moves: arguments of the standard provider's ``ApprovalOperator``, such
        as ``response_timeout``, ``defaults``, ``assigned_users`` and ``notifiers``. Airflow 3.1 and later. Whoever
        rejects ends the run green with nothing moved, as does a time-out with ``defaults="Reject"``. Nobody is asked
        where nothing is to be moved.
    :param check_agents: Whether to ask Splashify first whether the agents on duty can take chats, by one request each;
        see :class:`SplashifyPlanOperator` for what that may change.
    :param on_agent_refused: Where Splashify refuses an agent: ``"next"`` gives their conversations to the next in line,
        ``"fail"`` fails those, and does everything else.
    :param on_conversation_not_found: ``"skip"`` conversations that were resolved meanwhile, or ``"fail"`` those.
    :param write_back: Called with the moves that were made, to write them where the conversations came from; see
        :class:`SplashifyWriteBackOperator`, and ``splashify_provider.sql.SqlWriteBack`` for a table. If it has a method
        ``check``, as that has, it is called before anything is planned.
    :param splashify_conn_id: The Airflow connection. (templated)
    :param kwargs: What every ``TaskGroup`` takes.
    :raises SplashifyConfigurationError: If an argument is wrong, or Airflow is too old for an approval.
    """

    plan: SplashifyPlanOperator
    approval: BaseOperator | None
    assign: MappedOperator
    write_back: SplashifyWriteBackOperator | None
    summary: SplashifyHandoverSummaryOperator

    def __init__(
        self,
        group_id: str = "handover",
        *,
        shifts: Iterable[Any] | str,
        conversations: Iterable[Any] | str,
        policy: RoutingPolicy | None = None,
        map_up_to: int = 100,
        max_run_age: timedelta | None = None,
        dry_run: bool | str = False,
        approval: Mapping[str, Any] | None = None,
        check_agents: bool = False,
        on_agent_refused: Literal["next", "fail"] = "next",
        on_conversation_not_found: Literal["fail", "skip"] = "skip",
        write_back: Callable[[list[dict[str, Any]]], object] | None = None,
        splashify_conn_id: str = "splashify_default",
        **kwargs: Any,
    ) -> None:
        check_map_up_to(map_up_to)
        check_policy(policy)
        check_max_run_age(max_run_age)
        check_agents = parse_flag("check_agents", check_agents)
        check_choice("on_agent_refused", on_agent_refused, "next", "fail")
        check_choice("on_conversation_not_found", on_conversation_not_found, "fail", "skip")
        if write_back is not None and not _is_function(write_back):
            raise SplashifyConfigurationError(
                "write_back must be a plain function that takes the list of moves, or SqlWriteBack(...), not "
                f"{redact(repr(write_back))}."
            )
        super().__init__(group_id, **kwargs)
        given = {**self.dag.default_args, **self.default_args}
        # What is undone after a worker was killed, or while Splashify is down, is worth another try.
        wanted = {"retries": 3, "retry_delay": timedelta(minutes=1)}
        retries: dict[str, Any] = {name: value for name, value in wanted.items() if name not in given}
        # Not where it is the operators' own default: default_args may say otherwise.
        connection: dict[str, Any] = (
            {} if splashify_conn_id == "splashify_default" else {"splashify_conn_id": splashify_conn_id}
        )
        # Whether it could write is better known before anything is moved.
        check = getattr(write_back, "check", None)
        # default_args that name arguments of the group's own count where it was given none.
        max_run_age = given.get("max_run_age") if max_run_age is None else max_run_age
        dry_run = given.get("dry_run", False) if dry_run is False else dry_run
        with self.dag, self:
            self.plan = SplashifyPlanOperator(
                task_id="plan",
                pre_execute=None if check is None else lambda _: check(),
                shifts=shifts,
                conversations=conversations,
                policy=policy,
                map_up_to=map_up_to,
                check_agents=check_agents,
                max_run_age=max_run_age,
                dry_run=dry_run,
                do_xcom_push=True,
                trigger_rule="all_success",
                **connection,
                **retries,
            )
            self.assign = SplashifyPlannedAssignOperator.partial(
                task_id="assign",
                on_agent_refused=on_agent_refused,
                on_conversation_not_found=on_conversation_not_found,
                on_invalid="continue",
                max_run_age=max_run_age,
                dry_run=False,  # of which there is nothing to assign
                do_xcom_push=True,
                trigger_rule="all_success",
                **connection,
                **retries,
            ).expand_kwargs(self.plan.output)
            self.approval = None if approval is None else _approval_of(self.plan.task_id, approval)
            if self.approval:
                self.plan >> self.approval >> self.assign
            approval_id = self.approval.task_id if self.approval else None
            sources = tuple(sorted(self.plan.upstream_task_ids))
            tasks = HandoverTasks(self.plan.task_id, approval_id, self.assign.task_id, sources=sources)
            self.write_back = None
            if write_back:
                self.write_back = SplashifyWriteBackOperator(
                    task_id="write_back",
                    tasks=tasks,
                    write_back=write_back,
                    max_run_age=max_run_age,
                    trigger_rule="all_done",
                    **retries,
                )
                self.assign >> self.write_back
                tasks = replace(tasks, write_back=self.write_back.task_id)
            self.summary = SplashifyHandoverSummaryOperator(task_id="summary", tasks=tasks, trigger_rule="all_done")
            [self.assign, *([self.write_back] if self.write_back else [])] >> self.summary


def _is_function(given: object) -> bool:
    """Check whether something does its work when it is called, and not later, or as a task."""
    is_lazy = (
        inspect.iscoroutinefunction(given) or inspect.isgeneratorfunction(given) or inspect.isasyncgenfunction(given)
    )
    return callable(given) and not inspect.isclass(given) and not is_lazy and not hasattr(given, "expand")


def _approval_of(plan_task_id: str, arguments: Mapping[str, Any]) -> BaseOperator:
    """Make the task that asks a person."""
    if not isinstance(arguments, Mapping) or _OURS & set(arguments):
        raise SplashifyConfigurationError(
            "approval must be a dictionary of ApprovalOperator's arguments, such as "
            f"{{'response_timeout': timedelta(minutes=20), 'defaults': 'Reject'}}, without {', '.join(sorted(_OURS))}; "
            f"not {redact(repr(arguments))}."
        )
    try:
        from splashify_provider.operators.approval import PlanApprovalOperator  # not there before 3.1
    except (ImportError, AirflowException):
        raise SplashifyConfigurationError(
            "approval needs Airflow 3.1 or later and a standard provider with ApprovalOperator: leave it out here."
        ) from None
    return PlanApprovalOperator(
        task_id="approval",
        plan_task_id=plan_task_id,
        trigger_rule="all_success",
        do_xcom_push=True,
        **{
            "subject": "Hand the conversations over as planned?",
            "body": f"{{{{ ti.xcom_pull(task_ids={plan_task_id!r}, key={MARKDOWN!r}) }}}}",
            "execution_timeout": None,  # of default_args would become response_timeout
            "retries": 0,  # a time-out that fails asks nobody twice
            **arguments,
        },
    )
