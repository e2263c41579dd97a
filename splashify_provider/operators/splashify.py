"""Operators that assign and release Splashify conversations, safe to retry and to clear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSkipException

from splashify_provider.exceptions import ConversationNotFoundError
from splashify_provider.operators.base import SplashifyOperator, due_at, skip_if_too_old
from splashify_provider.operators.bulk import SplashifyBulkAssignOperator
from splashify_provider.redaction import mask_phone_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from splashify_provider.hooks.splashify import AssignmentResult

__all__ = [
    "SplashifyAssignOperator",
    "SplashifyBulkAssignOperator",
    "SplashifyReleaseOperator",
    "carried_out",
    "due_at",
    "skip_if_too_old",
]


class _ConversationOperator(SplashifyOperator):
    """What assigning and releasing one conversation share."""

    template_fields: Sequence[str] = ("user_phone_number", "splashify_conn_id")

    def __init__(self, *, user_phone_number: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.user_phone_number = user_phone_number

    def _run(self, context: Mapping[str, Any]) -> dict[str, Any]:
        summary = self._rehearse() if self.is_dry_run else self._act()
        map_index = getattr(context.get("ti"), "map_index", -1)
        return {**summary, "map_index": map_index} if map_index >= 0 else summary

    def _act(self) -> dict[str, Any]:
        try:
            result = self._send()
        except ConversationNotFoundError:
            if self.on_conversation_not_found == "fail":
                raise
            phone = mask_phone_number(str(self.user_phone_number))
            raise AirflowSkipException(f"{phone} has no open conversation in Splashify: nothing to do.") from None
        return _summary(
            "assigned" if result.agent_email else "released",
            result.user_phone_number,
            result.agent_email,
            result.message,
        )

    def _send(self) -> AssignmentResult:
        raise NotImplementedError

    def _rehearse(self) -> dict[str, Any]:
        raise NotImplementedError


class SplashifyAssignOperator(_ConversationOperator):
    """Hand a customer's open conversation to an agent.

    Safe to retry and to clear: assigning again to the same agent changes nothing. What that can't
    guard against is clearing an *old* run, which would move today's conversation to a past shift's agent;
    ``max_run_age`` does. Errors that waiting can't heal fail the task at once, whatever its ``retries``.

    :param user_phone_number: The customer's phone number, with its country code (or national, where the
        connection has a ``default_region``). (templated)
    :param agent_email: The e-mail address of an active member of the Splashify workspace. (templated)
    :param splashify_conn_id: The Airflow connection. (templated)
    :param on_conversation_not_found: ``"fail"``, or ``"skip"`` where customers without an open conversation
        are normal.
    :param max_run_age: Skip if the run was due longer ago than this. Measured from the end of its data
        interval, else from when it was due; never from when it was retried or cleared.
    :param dry_run: Validate everything and log it, send nothing.
    :param retry_policy: Airflow 3.3 and later; waits as long as Splashify asks, unless given.
    """

    template_fields: Sequence[str] = ("user_phone_number", "agent_email", "splashify_conn_id")

    def __init__(self, *, agent_email: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.agent_email = agent_email

    def _send(self) -> AssignmentResult:
        return self.hook.assign(self.user_phone_number, self.agent_email)

    def _rehearse(self) -> dict[str, Any]:
        from splashify_provider.agent_email import validate_agent_email

        email = validate_agent_email(self.agent_email)
        phone = self.hook.normalize_phone_number(self.user_phone_number)
        self.log.info("Dry run, nothing was sent: would assign %s to %s.", mask_phone_number(phone), email)
        return _summary("dry_run", phone, email, "")


class SplashifyReleaseOperator(_ConversationOperator):
    """Take a customer's open conversation away from its agent, back to the unassigned.

    :param user_phone_number: The customer's phone number, with its country code (or national, where the
        connection has a ``default_region``). (templated)
    :param splashify_conn_id: The Airflow connection. (templated)
    :param on_conversation_not_found: ``"fail"``, or ``"skip"`` where customers without an open conversation
        are normal.
    :param max_run_age: Skip if the run was due longer ago than this; see :class:`SplashifyAssignOperator`.
    :param dry_run: Validate everything and log it, send nothing.
    :param retry_policy: Airflow 3.3 and later; waits as long as Splashify asks, unless given.
    """

    def _send(self) -> AssignmentResult:
        return self.hook.release(self.user_phone_number)

    def _rehearse(self) -> dict[str, Any]:
        phone = self.hook.normalize_phone_number(self.user_phone_number)
        self.log.info("Dry run, nothing was sent: would release %s.", mask_phone_number(phone))
        return _summary("dry_run", phone, None, "")


def _summary(outcome: str, phone: str, agent_email: str | None, message: str) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "user_phone_number": mask_phone_number(phone),
        "agent_email": agent_email,
        "message": message,
    }


def carried_out(assignments: Sequence[Mapping[str, str]], results: Any) -> list[Mapping[str, str]]:
    """Tell which assignments a mapped :class:`SplashifyAssignOperator` has made, for writing them back.

    :param assignments: What the operator was mapped over: ``user_phone_number`` and ``agent_email`` of each.
    :param results: What it returned: ``ti.xcom_pull(task_ids=...)``, a list, one dict or None.
    :return: Those of the assignments that were made.
    """
    made = {}
    for result in [results] if isinstance(results, dict) else results or []:
        index = result["map_index"] if result and result["outcome"] == "assigned" else len(assignments)
        if index < len(assignments):  # an earlier, longer plan's results may still be there
            made[index] = result["user_phone_number"], result["agent_email"]
    return [
        row
        for index, row in enumerate(assignments)
        if made.get(index) == (mask_phone_number(str(row["user_phone_number"])), row["agent_email"])
    ]
