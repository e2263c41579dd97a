"""Operators that assign and release Splashify conversations, safe to retry and to clear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from splashify_provider.agent_email import validate_agent_email
from splashify_provider.exceptions import SplashifyError
from splashify_provider.operators.base import SplashifyOperator, due_at, skip_if_too_old
from splashify_provider.operators.bulk import SplashifyBulkAssignOperator
from splashify_provider.redaction import mask_phone_number
from splashify_provider.retry_policy import DEFAULT_RETRY_POLICY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import timedelta

    from splashify_provider.client import SplashifyClient

__all__ = [
    "SplashifyAssignOperator",
    "SplashifyBulkAssignOperator",
    "SplashifyReleaseOperator",
    "due_at",
    "skip_if_too_old",
    "successful_assignments",
]


class SplashifyAssignOperator(SplashifyOperator):
    """Hand a customer's open conversation to an agent.

    Safe to retry and to clear: assigning again to the same agent changes nothing. What that can't guard against is
    clearing an *old* run, which would move today's conversation to a past shift's agent; ``max_run_age`` does.
    Permanent errors fail the task at once, whatever its ``retries``.

    XCom gets ``outcome`` (``assigned`` or ``dry_run``), the masked ``user_phone_number``, ``agent_email``,
    ``message``, ``key`` (a hash, see :func:`successful_assignments`), and ``map_index`` if the task is mapped.

    :param user_phone_number: The customer's phone number, with its country code (or national, where the
        connection has a ``default_region``). (templated)
    :param agent_email: The e-mail address of an active member of the Splashify workspace. (templated)
    :param splashify_conn_id: The Airflow connection. (templated)
    :param on_conversation_not_found: ``"fail"``, or ``"skip"`` where customers without an open conversation
        are normal.
    :param max_run_age: Skip if the run was due longer ago than this. Measured from the end of its data
        interval, else from when it was due; never from when it was retried or cleared.
    :param dry_run: Check everything and log it, send nothing.
    :param retry_policy: Airflow 3.3 and later; waits as long as Splashify asks, unless given.
    """

    template_fields: Sequence[str] = ("user_phone_number", "agent_email", "splashify_conn_id")

    def __init__(
        self,
        *,
        user_phone_number: str,
        agent_email: str,
        splashify_conn_id: str = "splashify_default",
        on_conversation_not_found: Literal["fail", "skip"] = "fail",
        max_run_age: timedelta | None = None,
        dry_run: bool = False,
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

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Assign the conversation.

        :param context: Airflow's task context.
        :return: What was done, without the whole phone number.
        :raises AirflowSkipException: If the run is too old, or there is no conversation and that is to be skipped.
        :raises AirflowFailException: If the error is permanent. The error is its cause.
        :raises SplashifyError: If it is transient: Airflow's retries apply.
        """
        with self.airflow_errors():
            self.check_arguments()
            skip_if_too_old(context, self.max_run_age)
            if self.is_dry_run:
                phone = self.hook.normalize_phone_number(self.user_phone_number)
                email = validate_agent_email(self.agent_email, self.user_phone_number)
                self.log.info("Dry run, nothing was sent: would assign %s to %s.", mask_phone_number(phone), email)
                return _summary(context, "dry_run", phone, email)
            result = self.hook.assign(self.user_phone_number, self.agent_email)
            phone, email = result.user_phone_number, str(result.agent_email)
            summary = _summary(context, "assigned", phone, email, result.message)
            return {**summary, "key": _key(self.hook.client, phone, email)}


class SplashifyReleaseOperator(SplashifyOperator):
    """Take a customer's open conversation away from its agent, back to the unassigned.

    XCom gets ``outcome`` (``released`` or ``dry_run``), the masked ``user_phone_number``, ``agent_email`` (None),
    ``message``, and ``map_index`` if the task is mapped.

    :param user_phone_number: The customer's phone number, with its country code (or national, where the
        connection has a ``default_region``). (templated)
    :param splashify_conn_id: The Airflow connection. (templated)
    :param on_conversation_not_found: ``"fail"``, or ``"skip"`` where customers without an open conversation
        are normal.
    :param max_run_age: Skip if the run was due longer ago than this; see :class:`SplashifyAssignOperator`.
    :param dry_run: Check everything and log it, send nothing.
    :param retry_policy: Airflow 3.3 and later; waits as long as Splashify asks, unless given.
    """

    template_fields: Sequence[str] = ("user_phone_number", "splashify_conn_id")

    def __init__(
        self,
        *,
        user_phone_number: str,
        splashify_conn_id: str = "splashify_default",
        on_conversation_not_found: Literal["fail", "skip"] = "fail",
        max_run_age: timedelta | None = None,
        dry_run: bool = False,
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
    map_index = getattr(context.get("ti"), "map_index", -1)
    return {**summary, "map_index": map_index} if map_index >= 0 else summary


def _key(client: SplashifyClient, phone: str, agent_email: str) -> str:
    """Stand for a number and its agent: exact, and worth nothing to those who lack the API key."""
    return client.fingerprint(f"{phone} {agent_email.casefold()}").hex()[:32]


def successful_assignments(
    assignments: Sequence[Mapping[str, Any]], results: Any, splashify_conn_id: str = "splashify_default"
) -> list[Mapping[str, Any]]:
    """Return the assignments that :class:`SplashifyAssignOperator` has made, for writing them back.

    :param assignments: What was to be assigned: ``user_phone_number`` and ``agent_email`` of each.
    :param results: What the operator returned, mapped or not: ``ti.xcom_pull(task_ids=...)``, a list, one dict or None.
    :param splashify_conn_id: The connection it used: results name numbers by hashes that only its key can make.
    :return: Those of the assignments that were made.
    :raises ValueError: If these are the results of another operator.
    """
    from splashify_provider.hooks.splashify import SplashifyHook

    listed: Iterable[Any] = [results] if isinstance(results, dict) else results or []
    made = [result for result in listed if result]
    if not all("outcome" in result for result in made):
        raise ValueError(
            "These are no results of SplashifyAssignOperator. SplashifyBulkAssignOperator's name what was not done, by "
            "position: not_done."
        )
    keys = {result.get("key") for result in made if result["outcome"] == "assigned"}
    if not keys:
        return []
    client = SplashifyHook(splashify_conn_id).client

    def is_made(row: Mapping[str, Any]) -> bool:
        try:
            phone = client.normalize_phone_number(row["user_phone_number"])
            return _key(client, phone, validate_agent_email(row["agent_email"])) in keys
        except SplashifyError:  # it can't have been sent
            return False

    return [row for row in assignments if is_made(row)]
