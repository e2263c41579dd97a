"""Errors that end a task, with reason and remedy in its log: Airflow 3's UI shows the stack trace above their text."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

log = logging.getLogger(__name__)


def log_lines(text: str) -> None:
    """Log a text as errors, a line each: log viewers show a line break as they like.

    :param text: The text.
    """
    for line in text.splitlines():
        log.error("%s", line)


def retry_later(reason: str, remedy: str) -> AirflowException:
    """Log an error that Airflow retries, and return it.

    :param reason: What happened.
    :param remedy: What to do about it.
    :return: The error, to be raised.
    """
    from airflow.providers.common.compat.sdk import AirflowException  # not earlier: DAGs load this module

    log_lines(text := f"{reason}\n{remedy}")
    return AirflowException(text)


def fail_at_once(text: str) -> AirflowFailException:
    """Log an error that fails the task whatever its retries, and return it.

    :param text: What happened, and on further lines what to do about it.
    :return: The error, to be raised.
    """
    from airflow.providers.common.compat.sdk import AirflowFailException  # not earlier: DAGs load this module

    log_lines(text)
    return AirflowFailException(text)
