"""Operators that move one Splashify conversation, safe to retry and to clear."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowNotFoundException,
    AirflowSkipException,
    BaseOperator,
)

from splashify_provider.exceptions import (
    ConversationNotFoundError,
    SplashifyConfigurationError,
    SplashifyError,
)
from splashify_provider.redaction import mask_phone_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from splashify_provider.hooks.splashify import AssignmentResult, SplashifyHook


class _ConversationOperator(BaseOperator):
    """What assigning and releasing share: when to run at all, and what a failure means to Airflow."""

    template_fields: Sequence[str] = ("user_phone_number", "splashify_conn_id")
    ui_color = "#d9fdd3"

    def __init__(
        self,
        *,
        user_phone_number: str,
        splashify_conn_id: str = "splashify_default",
        on_conversation_not_found: Literal["fail", "skip"] = "fail",
        max_run_age: timedelta | None = None,
        dry_run: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.user_phone_number = user_phone_number
        self.splashify_conn_id = splashify_conn_id
        self.on_conversation_not_found = on_conversation_not_found
        self.max_run_age = max_run_age
        # Not `self.dry_run`: that is a method of BaseOperator, which `airflow tasks test --dry-run` calls.
        self.is_dry_run = dry_run

    @cached_property
    def hook(self) -> SplashifyHook:
        """The hook, imported on first use so that parsing a DAG loads no HTTP library."""
        from splashify_provider.hooks.splashify import SplashifyHook

        return SplashifyHook(self.splashify_conn_id)

    def execute(self, context: Mapping[str, Any]) -> dict[str, str | None]:
        """Send the one request this task is for.

        :param context: Airflow's task context.
        :return: ``outcome``, ``user_phone_number`` (last four digits), ``agent_email`` and ``message``.
        :raises AirflowSkipException: If the run is too old, or there is no conversation and that is to be skipped.
        :raises AirflowFailException: If waiting can't heal the error. The error is its cause.
        :raises SplashifyError: If waiting can heal it: Airflow's retries apply.
        """
        try:
            self._check_arguments()
            skip_if_too_old(context, self.max_run_age)
            if self.is_dry_run:
                return self._rehearse()
            result = self._send()
        except ConversationNotFoundError as error:
            if self.on_conversation_not_found == "skip":
                phone = mask_phone_number(str(self.user_phone_number))
                raise AirflowSkipException(f"{phone} has no open conversation in Splashify: nothing to do.") from None
            self._fail(error)
        except SplashifyError as error:
            self._fail(error)
        except AirflowNotFoundException as error:
            self._fail(
                SplashifyConfigurationError(
                    f"{error}: create connection {self.splashify_conn_id!r} (type splashify, the API key as its "
                    "password), then clear this task."
                )
            )
        return _summary(
            "assigned" if result.agent_email else "released",
            result.user_phone_number,
            result.agent_email,
            result.message,
        )

    def _check_arguments(self) -> None:
        if self.on_conversation_not_found not in ("fail", "skip"):
            raise SplashifyConfigurationError(
                f"on_conversation_not_found must be 'fail' or 'skip', not {self.on_conversation_not_found!r}."
            )
        if self.max_run_age is not None and not isinstance(self.max_run_age, timedelta):
            raise SplashifyConfigurationError(
                f"max_run_age must be a timedelta, such as timedelta(hours=8), not {self.max_run_age!r}."
            )

        if not isinstance(self.is_dry_run, bool):
            raise SplashifyConfigurationError(f"dry_run must be True or False, not {self.is_dry_run!r}.")

    def _fail(self, error: SplashifyError) -> NoReturn:
        # Said on a line of its own as well: Airflow 3's UI puts the stack trace below the exception's text. The
        # trace into the hook would add nothing but its variables, the phone number among them.
        self.log.error("%s", error)
        error.with_traceback(None)
        if error.retryable:
            raise error from None
        raise AirflowFailException(str(error)) from error

    def _send(self) -> AssignmentResult:
        raise NotImplementedError

    def _rehearse(self) -> dict[str, str | None]:
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
    """

    template_fields: Sequence[str] = ("user_phone_number", "agent_email", "splashify_conn_id")

    def __init__(self, *, agent_email: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.agent_email = agent_email

    def _send(self) -> AssignmentResult:
        return self.hook.assign(self.user_phone_number, self.agent_email)

    def _rehearse(self) -> dict[str, str | None]:
        from splashify_provider.hooks.splashify import validate_agent_email

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
    """

    def _send(self) -> AssignmentResult:
        return self.hook.release(self.user_phone_number)

    def _rehearse(self) -> dict[str, str | None]:
        phone = self.hook.normalize_phone_number(self.user_phone_number)
        self.log.info("Dry run, nothing was sent: would release %s.", mask_phone_number(phone))
        return _summary("dry_run", phone, None, "")


def _summary(outcome: str, phone: str, agent_email: str | None, message: str) -> dict[str, str | None]:
    return {
        "outcome": outcome,
        "user_phone_number": mask_phone_number(phone),
        "agent_email": agent_email,
        "message": message,
    }


def carried_out(assignments: Iterable[Mapping[str, str]], results: Any) -> list[Mapping[str, str]]:
    """Tell which assignments a mapped :class:`SplashifyAssignOperator` has made, for writing them back.

    Results show a number's last four digits. Where those are the same for several assignments to one agent, either all
    of them were made or none of them counts: a run after this one looks at them again.

    :param assignments: What the operator was mapped over: ``user_phone_number`` and ``agent_email`` of each.
    :param results: What it returned: ``ti.xcom_pull(task_ids=...)``, a list, one dict or None.
    :return: Those of the assignments that were made.
    """
    assigned = Counter(
        (result["user_phone_number"], result["agent_email"])
        for result in ([results] if isinstance(results, dict) else results or [])
        if result and result["outcome"] == "assigned"
    )
    asked = [(mask_phone_number(str(row["user_phone_number"])), row["agent_email"], row) for row in assignments]
    expected = Counter((phone, agent) for phone, agent, _ in asked)
    return [row for phone, agent, row in asked if assigned[phone, agent] >= expected[phone, agent]]


def skip_if_too_old(context: Mapping[str, Any], max_run_age: timedelta | None) -> None:
    """Guard a task against being run for a moment that has passed.

    :param context: Airflow's task context.
    :param max_run_age: How long after it was due a run may still act; None for always.
    :raises AirflowSkipException: Saying how old the run is, and how to force it.
    :raises SplashifyConfigurationError: If the run has no date at all.
    """
    if max_run_age is None:
        return
    run = context.get("dag_run")
    logical_date = context.get("logical_date") or getattr(run, "logical_date", None)
    due = context.get("data_interval_end") or getattr(run, "data_interval_end", None)
    if due and logical_date:  # a run by hand may carry the last scheduled interval, long past
        due = max(due, logical_date)
    due = due or getattr(run, "run_after", None) or logical_date
    if due is None:
        raise SplashifyConfigurationError(
            "max_run_age is set, but this run has neither a data interval nor a date to measure its age from."
        )
    age = datetime.now(timezone.utc) - due
    if age > max_run_age:
        raise AirflowSkipException(
            f"This run was due {due:%Y-%m-%d %H:%M %Z}, {_words(age)} ago, and max_run_age is {_words(max_run_age)}: "
            "its assignments may be out of date, so nothing was sent. Trigger a new run to assign as of now. To force "
            "this one all the same, raise max_run_age in the DAG (or set it to None) and clear this task."
        )


def _words(duration: timedelta) -> str:
    """Write a duration as people say it: ``2 d 3 h``, ``8 h``, ``5 min``, ``30 s``."""
    seconds = int(duration.total_seconds())
    parts = [(seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    return " ".join([f"{number} {unit}" for number, unit in parts if number][:2]) or "0 s"
