"""What the operators share: when to run at all, and what a failure means to Airflow."""

from __future__ import annotations

from collections.abc import MutableMapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import (
    AirflowNotFoundException,
    AirflowSkipException,
    BaseOperator,
)

from splashify_provider.exceptions import (
    AgentInactiveError,
    AgentNotFoundError,
    ConversationNotFoundError,
    InvalidAgentEmailError,
    InvalidPhoneNumberError,
    SplashifyConfigurationError,
    SplashifyError,
)
from splashify_provider.redaction import redact
from splashify_provider.retry_policy import DEFAULT_RETRY_POLICY
from splashify_provider.task_errors import fail_at_once, log_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from splashify_provider.hooks.splashify import SplashifyHook

# What was wrong may have come from another task, whose result stays as it was.
_ABOUT_THE_INPUT = (AgentInactiveError, AgentNotFoundError, InvalidAgentEmailError, InvalidPhoneNumberError)


class SplashifyOperator(BaseOperator):
    """Base of the operators. Their parameters are documented where they stand in a signature that users see."""

    ui_color = "#d9fdd3"

    def __init__(
        self,
        *,
        splashify_conn_id: str,
        max_run_age: timedelta | None,
        dry_run: bool | str,
        retry_policy: Any,
        on_conversation_not_found: Literal["fail", "skip"] = "fail",
        **kwargs: Any,
    ) -> None:
        if DEFAULT_RETRY_POLICY is not None:  # before 3.3 no operator takes it
            kwargs["retry_policy"] = retry_policy
        super().__init__(**kwargs)
        self.splashify_conn_id = splashify_conn_id
        self.on_conversation_not_found = on_conversation_not_found
        self.max_run_age = max_run_age
        # Not `self.dry_run`: that is a method of BaseOperator, which `airflow tasks test --dry-run` calls. This is the
        # template field.
        self.is_dry_run = dry_run

    @cached_property
    def hook(self) -> SplashifyHook:
        """The hook, imported on first use so that parsing a DAG loads no HTTP library."""
        from splashify_provider.hooks.splashify import SplashifyHook

        return SplashifyHook(self.splashify_conn_id)

    def check_arguments(self) -> None:
        """Check what may have come from templates or other tasks.

        :raises SplashifyConfigurationError: Naming the argument.
        """
        check_choice("on_conversation_not_found", self.on_conversation_not_found, "fail", "skip")
        check_max_run_age(self.max_run_age)
        self.is_dry_run = parse_flag("dry_run", self.is_dry_run)

    def label_mapped_task(self, context: Mapping[str, Any], text: str) -> None:
        """Label a mapped task in Airflow's UI, unless its author has done so.

        :param context: Airflow's task context.
        :param text: The label, without whole phone numbers.
        """
        is_labelled = self.map_index_template or context.get("map_index_template")
        if map_index_of(context) < 0 or is_labelled or not isinstance(context, MutableMapping):
            return
        # Airflow renders the template after execute, also when that raises; by a name, as an address may have braces.
        context["splashify_label"] = text
        context["map_index_template"] = "{{ splashify_label }}"

    @contextmanager
    def airflow_errors(self) -> Iterator[None]:
        """Turn this package's errors into what Airflow acts on, and log reason and remedy on a line each.

        :raises AirflowSkipException: If there is no conversation, and that is to be skipped.
        :raises AirflowFailException: If the error is permanent. The error is its cause.
        :raises SplashifyError: If it is transient: Airflow's retries apply.
        """
        try:
            yield
        except SplashifyError as error:
            failure = error
        except AirflowNotFoundException as missing:
            what = f"{self.splashify_conn_id!r} (type splashify, the API key as its password)"
            is_ours = self.splashify_conn_id in str(missing)
            failure = SplashifyConfigurationError(
                f"{missing}\nCreate connection {what if is_ours else 'of that name'}."
            )
        else:
            return
        if isinstance(failure, ConversationNotFoundError) and self.on_conversation_not_found == "skip":
            raise AirflowSkipException(failure.reason + " There is nothing to do.")
        text = str(failure) if failure.retryable else _with_what_to_clear(failure)
        if failure.retryable:
            log_lines(text)
            raise failure
        # The trace into the hook would add nothing but its variables, a whole phone number among them.
        raise fail_at_once(text) from failure.with_traceback(None)


def _with_what_to_clear(error: SplashifyError) -> str:
    if "clear" in error.remedy or isinstance(error, ConversationNotFoundError):
        return str(error)
    if not error.remedy:
        return f"{error}\nCorrect it, then clear this task."
    or_that = " (or, with Downstream, the one that the value comes from)" if isinstance(error, _ABOUT_THE_INPUT) else ""
    return f"{error} Then clear this task{or_that}."


def parse_flag(name: str, value: object) -> bool:
    """Read an argument that is True or False, or what a template renders as that.

    :param name: The argument.
    :param value: A bool, or the text "True" or "False" in any case.
    :return: The bool.
    :raises SplashifyConfigurationError: If it is anything else: nobody should have to guess.
    """
    words = {"true": True, "false": False}
    flag = words.get(value.strip().casefold()) if isinstance(value, str) else value
    if not isinstance(flag, bool):
        raise SplashifyConfigurationError(f"{name} must be True or False, not {redact(repr(value))}.")
    return flag


def map_index_of(context: Mapping[str, Any]) -> int:
    """Return which of a mapped task's instances this is, counted from 0.

    :param context: Airflow's task context.
    :return: The index; -1 if the task is not mapped.
    """
    return int(getattr(context.get("ti"), "map_index", -1))


def check_choice(name: str, value: object, *choices: str) -> None:
    """Check an argument that is one of a few words.

    :param name: The argument.
    :param value: Its value.
    :param choices: The words.
    :raises SplashifyConfigurationError: If it is none of them.
    """
    if value not in choices:
        allowed = " or ".join(repr(choice) for choice in choices)
        raise SplashifyConfigurationError(f"{name} must be {allowed}, not {redact(repr(value))}.")


def check_max_run_age(value: object) -> None:
    """Check the argument of that name.

    :param value: Its value.
    :raises SplashifyConfigurationError: If it is no timedelta.
    """
    if value is not None and not isinstance(value, timedelta):
        raise SplashifyConfigurationError(
            f"max_run_age must be a timedelta, such as timedelta(hours=8), not {redact(repr(value))}."
        )


def due_at(context: Mapping[str, Any]) -> datetime:
    """Return when a run was due, however late it runs or is repeated: the moment its tasks should plan for.

    :param context: Airflow's task context.
    :return: The end of the run's data interval, or its logical date if that is later (as of a run by hand); else when
        it was to start.
    :raises SplashifyConfigurationError: If the run has no date at all.
    """
    run = context.get("dag_run")
    logical_date = context.get("logical_date") or getattr(run, "logical_date", None)
    end = context.get("data_interval_end") or getattr(run, "data_interval_end", None)
    if end and logical_date:  # a run by hand may carry the last scheduled interval, long past
        end = max(end, logical_date)
    due: datetime | None = end or getattr(run, "run_after", None) or logical_date
    if due is None:
        raise SplashifyConfigurationError("This run has neither a data interval nor a date to tell when it was due.")
    return due


def skip_if_too_old(context: Mapping[str, Any], max_run_age: timedelta | None) -> None:
    """Guard a task against being run for a moment that has passed.

    :param context: Airflow's task context.
    :param max_run_age: How long after it was due a run may still act; None for always.
    :raises AirflowSkipException: Saying how old the run is, and how to force it.
    :raises SplashifyConfigurationError: If the run has no date at all.
    """
    if max_run_age is None:
        return
    due = due_at(context)
    age = datetime.now(timezone.utc) - due
    if age > max_run_age:
        raise AirflowSkipException(
            f"This run was due {due:%Y-%m-%d %H:%M %Z}, {_words(age)} ago, and max_run_age is {_words(max_run_age)}: "
            "its assignments may be out of date, so this try has sent nothing.\nTrigger a new run to assign as of now. "
            "To force this one all the same, raise max_run_age in the DAG (or set it to None) and clear this task."
        )


def _words(duration: timedelta) -> str:
    """Write a duration as people say it: ``2 d 3 h``, ``8 h``, ``5 min``, ``30 s``."""
    seconds = int(duration.total_seconds())
    parts = [(seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    return " ".join([f"{number} {unit}" for number, unit in parts if number][:2]) or "0 s"
