"""Operators that assign and release Splashify conversations, safe to retry and to clear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from splashify_provider.agent_email import validate_agent_email, validate_fallback_agents
from splashify_provider.bulk.assignment import AGENT_REFUSED, all_refused, label_of
from splashify_provider.operators.base import SplashifyOperator, due_at, map_index_of, skip_if_too_old
from splashify_provider.operators.bulk import SplashifyBulkAssignOperator, SplashifyPlannedAssignOperator
from splashify_provider.operators.plan import SplashifyPlanOperator
from splashify_provider.redaction import mask_phone_number
from splashify_provider.retry_policy import DEFAULT_RETRY_POLICY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from splashify_provider.exceptions import SplashifyError

__all__ = [
    "SplashifyAssignOperator",
    "SplashifyBulkAssignOperator",
    "SplashifyPlanOperator",
    "SplashifyPlannedAssignOperator",
    "SplashifyReleaseOperator",
    "due_at",
    "skip_if_too_old",
]


class SplashifyAssignOperator(SplashifyOperator):
    """Hand a customer's open conversation to an agent.

    Safe to retry and to clear: assigning again to the same agent changes nothing. What that can't guard against is
    clearing an *old* run, which would move today's conversation to a past shift's agent; ``max_run_age`` does.
    Permanent errors fail the task at once, whatever its ``retries``.

    XCom gets ``outcome`` (``assigned`` or ``dry_run``), the masked ``user_phone_number``, ``agent_email`` (who has the
    conversation), ``message``, and ``map_index`` if the task is mapped. A mapped task is labelled
    ``…0142 → ada@example.com``, unless it has a ``map_index_template``.

    :param user_phone_number: The customer's phone number, with its country code (or national, where the
        connection has a ``default_region``). (templated)
    :param agent_email: The e-mail address of an active member of the Splashify workspace. (templated)
    :param fallback_agents: Who is next in line where Splashify refuses that agent (not found, inactive): at most ten
        addresses, as a list or as text with commas between them. (templated)
    :param splashify_conn_id: The Airflow connection. (templated)
    :param on_conversation_not_found: ``"fail"``, or ``"skip"`` where customers without an open conversation
        are normal.
    :param max_run_age: Skip if the run was due longer ago than this. Measured from the end of its data
        interval, else from when it was due; never from when it was retried or cleared.
    :param dry_run: Check everything and log it, send nothing. A bool, or the text "True" or "False". (templated)
    :param retry_policy: Airflow 3.3 and later; waits as long as Splashify asks, unless given.
    """

    template_fields: Sequence[str] = (
        "user_phone_number",
        "agent_email",
        "fallback_agents",
        "splashify_conn_id",
        "is_dry_run",
    )

    def __init__(
        self,
        *,
        user_phone_number: str,
        agent_email: str,
        fallback_agents: Sequence[str] | str = (),
        splashify_conn_id: str = "splashify_default",
        on_conversation_not_found: Literal["fail", "skip"] = "fail",
        max_run_age: timedelta | None = None,
        dry_run: bool | str = False,
        retry_policy: Any = DEFAULT_RETRY_POLICY,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            splashify_conn_id=splashify_conn_id,
            on_conversation_not_found=on_conversation_not_found,
            max_run_age=max_run_age,
            dry_run=dry_run,
            retry_policy=retry_policy,
            **kwargs,
        )
        self.user_phone_number = user_phone_number
        self.agent_email = agent_email
        self.fallback_agents = fallback_agents

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Assign the conversation.

        :param context: Airflow's task context.
        :return: What was done, without the whole phone number.
        :raises AirflowSkipException: If the run is too old, or there is no conversation and that is to be skipped.
        :raises AirflowFailException: If the error is permanent. The error is its cause.
        :raises SplashifyError: If it is transient: Airflow's retries apply.
        """
        self.label_mapped_task(
            context, label_of([{"user_phone_number": self.user_phone_number, "agent_email": self.agent_email}], [])
        )
        with self.airflow_errors():
            self.check_arguments()
            skip_if_too_old(context, self.max_run_age)
            first = validate_agent_email(self.agent_email, self.user_phone_number)
            agents = [first, *validate_fallback_agents(self.fallback_agents, first, self.user_phone_number)]
            if self.is_dry_run:
                phone = self.hook.normalize_phone_number(self.user_phone_number)
                self.log.info("Dry run, nothing was sent: would assign %s to %s.", mask_phone_number(phone), first)
                return _summary(context, "dry_run", phone, first)
            refused: list[SplashifyError] = []
            for agent in agents:
                try:
                    result = self.hook.assign(self.user_phone_number, agent)
                except AGENT_REFUSED as error:
                    refused.append(error.with_traceback(None))
                    self._log_refused(error, agents[len(refused) :])
                else:
                    return _summary(context, "assigned", result.user_phone_number, result.agent_email, result.message)
            raise all_refused(refused)

    def _log_refused(self, error: SplashifyError, left: list[str]) -> None:
        """Log who was refused, unless the task fails with that, and who is next."""
        if left:
            for line in [*str(error).splitlines(), f"Next in line: {left[0]}."]:
                self.log.warning("%s", line)


class SplashifyReleaseOperator(SplashifyOperator):
    """Take a customer's open conversation away from its agent, back to the unassigned.

    XCom gets ``outcome`` (``released`` or ``dry_run``), the masked ``user_phone_number``, ``agent_email`` (None),
    ``message``, and ``map_index`` if the task is mapped. A mapped task is labelled ``…0142 released``, unless it has a
    ``map_index_template``.

    :param user_phone_number: The customer's phone number, with its country code (or national, where the
        connection has a ``default_region``). (templated)
    :param splashify_conn_id: The Airflow connection. (templated)
    :param on_conversation_not_found: ``"fail"``, or ``"skip"`` where customers without an open conversation
        are normal.
    :param max_run_age: Skip if the run was due longer ago than this; see :class:`SplashifyAssignOperator`.
    :param dry_run: Check everything and log it, send nothing. A bool, or the text "True" or "False". (templated)
    :param retry_policy: Airflow 3.3 and later; waits as long as Splashify asks, unless given.
    """

    template_fields: Sequence[str] = ("user_phone_number", "splashify_conn_id", "is_dry_run")

    def __init__(
        self,
        *,
        user_phone_number: str,
        splashify_conn_id: str = "splashify_default",
        on_conversation_not_found: Literal["fail", "skip"] = "fail",
        max_run_age: timedelta | None = None,
        dry_run: bool | str = False,
        retry_policy: Any = DEFAULT_RETRY_POLICY,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            splashify_conn_id=splashify_conn_id,
            on_conversation_not_found=on_conversation_not_found,
            max_run_age=max_run_age,
            dry_run=dry_run,
            retry_policy=retry_policy,
            **kwargs,
        )
        self.user_phone_number = user_phone_number

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Release the conversation.

        :param context: Airflow's task context.
        :return: What was done, without the whole phone number.
        :raises AirflowSkipException: If the run is too old, or there is no conversation and that is to be skipped.
        :raises AirflowFailException: If the error is permanent. The error is its cause.
        :raises SplashifyError: If it is transient: Airflow's retries apply.
        """
        self.label_mapped_task(context, label_of([], [self.user_phone_number]))
        with self.airflow_errors():
            self.check_arguments()
            skip_if_too_old(context, self.max_run_age)
            if self.is_dry_run:
                phone = self.hook.normalize_phone_number(self.user_phone_number)
                self.log.info("Dry run, nothing was sent: would release %s.", mask_phone_number(phone))
                return _summary(context, "dry_run", phone, None)
            result = self.hook.release(self.user_phone_number)
            return _summary(context, "released", result.user_phone_number, None, result.message)


def _summary(
    context: Mapping[str, Any], outcome: str, phone: str, agent_email: str | None, message: str = ""
) -> dict[str, Any]:
    summary = {
        "outcome": outcome,
        "user_phone_number": mask_phone_number(phone),
        "agent_email": agent_email,
        "message": message,
    }
    map_index = map_index_of(context)
    return {**summary, "map_index": map_index} if map_index >= 0 else summary
