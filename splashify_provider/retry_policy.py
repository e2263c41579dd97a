"""Airflow 3.3 and later: the wait that Splashify asks for becomes the task's retry delay."""

from __future__ import annotations

import zlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from splashify_provider.exceptions import RateLimitError, SplashifyError
from splashify_provider.rate_limit import LONGEST_RETRY_AFTER, WINDOW

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECONDS_FOR_ONE = 5.0
_SECONDS_FOR_MAPPED = WINDOW  # so many tasks come back as evenly as they may send
_GOLDEN_RATIO = 0.6180339887498949

try:
    from airflow.sdk import RetryDecision, RetryPolicy
except ImportError:  # Airflow before 3.3
    DEFAULT_RETRY_POLICY: SplashifyRetryPolicy | None = None
else:

    class SplashifyRetryPolicy(RetryPolicy):
        """Wait as long as Splashify asks, each task a little differently; permanent errors fail at once.

        The default of this package's operators, and of use on any task that calls the hook. Everything but
        this package's errors is left to Airflow.
        """

        def evaluate(
            self,
            exception: BaseException,
            try_number: int,
            max_tries: int,  # noqa: ARG002 - Airflow's signature
            context: Mapping[str, Any] | None = None,
        ) -> RetryDecision:
            """Decide what a failed try means for the task.

            :param exception: What the task raised.
            :param try_number: Which try it was, from 1.
            :param max_tries: The task's ``retries``.
            :param context: Airflow's task context.
            :return: The decision, whose reason Airflow writes to the task's log.
            """
            if not isinstance(exception, SplashifyError):
                return RetryDecision.default()
            if not exception.retryable:
                return RetryDecision.fail(reason=exception.reason)
            ti = (context or {}).get("ti")
            delay = exception.retry_after
            if not delay:  # by Airflow's own delay mapped tasks would come back together, to be limited (again)
                least = WINDOW if isinstance(exception, RateLimitError) else 0.0
                delay = max(own_delay(getattr(ti, "task", None), try_number), least)
            delay = min(delay, LONGEST_RETRY_AFTER) + spread(ti, try_number)
            reason = f"The next try is in {delay:.0f} s. {exception.reason}"  # Airflow's log says no delay
            return RetryDecision.retry(delay=timedelta(seconds=delay), reason=reason)

    DEFAULT_RETRY_POLICY = SplashifyRetryPolicy()


def own_delay(task: Any, try_number: int) -> float:
    """Return the delay that a task's own settings ask for, growing with the tries if they say so.

    :param task: The operator, or None.
    :param try_number: Which try it was, from 1.
    :return: Seconds.
    """
    delay = (getattr(task, "retry_delay", None) or timedelta(0)).total_seconds()
    growth = float(getattr(task, "retry_exponential_backoff", 0) or 1)
    if growth <= 1:
        return delay
    longest = (getattr(task, "max_retry_delay", None) or timedelta(seconds=LONGEST_RETRY_AFTER)).total_seconds()
    try:
        return min(delay * growth ** (try_number - 1), longest)
    except OverflowError:
        return longest


def spread(ti: Any, try_number: int) -> float:
    """Return how much longer this task waits, so that mapped tasks that failed together come back evenly spread.

    Airflow's own jitter ignores the map index. Multiples of the golden ratio, modulo 1, are evenly spread for any
    number of tasks.

    :param ti: The task instance, or None.
    :param try_number: Which try it was, from 1.
    :return: Seconds.
    """
    map_index = getattr(ti, "map_index", None)
    index = map_index if isinstance(map_index, int) and map_index >= 0 else None
    name = f"{getattr(ti, 'dag_id', '')}/{getattr(ti, 'run_id', '')}/{getattr(ti, 'task_id', '')}/{try_number}"
    share = (zlib.crc32(name.encode()) / 2**32 + (index or 0) * _GOLDEN_RATIO) % 1
    return float(share * (_SECONDS_FOR_ONE if index is None else _SECONDS_FOR_MAPPED))
