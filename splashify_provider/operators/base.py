"""What the operators share."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowNotFoundException,
    AirflowSkipException,
    BaseOperator,
)

from splashify_provider.exceptions import SplashifyConfigurationError, SplashifyError
from splashify_provider.retry_policy import DEFAULT_RETRY_POLICY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from splashify_provider.hooks.splashify import SplashifyHook


class SplashifyOperator(BaseOperator):
    """What all operators share: when to run at all, and what a failure means to Airflow."""

    ui_color = "#d9fdd3"

    def __init__(
        self,
        *,
        splashify_conn_id: str = "splashify_default",
        on_conversation_not_found: Literal["fail", "skip"] = "fail",
        max_run_age: timedelta | None = None,
        dry_run: bool = False,
        retry_policy: Any = DEFAULT_RETRY_POLICY,
        **kwargs: Any,
    ) -> None:
        if DEFAULT_RETRY_POLICY is not None:  # before 3.3 no operator takes it
            kwargs["retry_policy"] = retry_policy
        super().__init__(**kwargs)
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

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Do what the task is for.

        :param context: Airflow's task context.
        :return: A summary, without whole phone numbers.
        :raises AirflowSkipException: If the run is too old, or there is no conversation and that is to be skipped.
        :raises AirflowFailException: If waiting can't heal the error. The error is its cause.
        :raises SplashifyError: If waiting can heal it: Airflow's retries apply.
        """
        with self.airflow_errors():
            self.check_arguments()
            skip_if_too_old(context, self.max_run_age)
            self.hook.get_conn()
            return self._run(context)

    @contextmanager
    def airflow_errors(self) -> Iterator[None]:
        """Turn this package's errors into what Airflow needs, and log reason and remedy on two lines."""
        try:
            yield
        except SplashifyError as error:
            self._fail(error)
        except AirflowNotFoundException as error:
            missing = f"{self.splashify_conn_id!r} (type splashify, the API key as its password)"
            self._fail(SplashifyConfigurationError(f"{error}\nCreate connection {missing}, then clear this task."))

    def _run(self, context: Mapping[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def check_arguments(self) -> None:
        """Refuse arguments that are wrong."""
        self._check_choice("on_conversation_not_found", "fail", "skip")
        if self.max_run_age is not None and not isinstance(self.max_run_age, timedelta):
            raise SplashifyConfigurationError(
                f"max_run_age must be a timedelta, such as timedelta(hours=8), not {self.max_run_age!r}."
            )
        if not isinstance(self.is_dry_run, bool):
            raise SplashifyConfigurationError(f"dry_run must be True or False, not {self.is_dry_run!r}.")

    def _check_choice(self, name: str, *choices: str) -> None:
        if getattr(self, name) not in choices:
            allowed = " or ".join(repr(choice) for choice in choices)
            raise SplashifyConfigurationError(f"{name} must be {allowed}, not {getattr(self, name)!r}.")

    def _fail(self, error: SplashifyError) -> NoReturn:
        # Said on a line of its own as well: Airflow 3's UI puts the stack trace below the exception's text. The
        # trace into the hook would add nothing but its variables, the phone number among them.
        for line in str(error).split("\n"):
            self.log.error("%s", line)
        error.with_traceback(None)
        if error.retryable:
            raise error from None
        raise AirflowFailException(str(error)) from error


def due_at(context: Mapping[str, Any]) -> datetime:
    """Say when a run was due, however late it runs or is repeated: the moment its tasks should plan for.

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
            "its assignments may be out of date, so this try has sent nothing. Trigger a new run to assign as of now. "
            "To force this one all the same, raise max_run_age in the DAG (or set it to None) and clear this task."
        )


def _words(duration: timedelta) -> str:
    """Write a duration as people say it: ``2 d 3 h``, ``8 h``, ``5 min``, ``30 s``."""
    seconds = int(duration.total_seconds())
    parts = [(seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    return " ".join([f"{number} {unit}" for number, unit in parts if number][:2]) or "0 s"
