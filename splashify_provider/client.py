"""Splashify's public API, as bulk uses it."""

from __future__ import annotations

import random
from typing import Any, Protocol

from splashify_provider.exceptions import RateLimitError, SplashifyError
from splashify_provider.rate_limit import LONGEST_WAIT


class SplashifyClient(Protocol):
    """What bulk needs of a client."""

    @property
    def settings(self) -> Any:  # noqa: D102
        ...

    @property
    def limiter(self) -> Any:  # noqa: D102
        ...

    def send_assignment(self, user_phone_number: str, agent_email: str) -> str:  # noqa: D102
        ...

    def normalize_phone_number(self, raw: object) -> str:  # noqa: D102
        ...

    def fingerprint(self, text: str) -> bytes:  # noqa: D102
        ...


def retry_delay(attempt: int, error: BaseException | None) -> float:
    """Return how long to wait before the next attempt: a random, growing time on top of what the server asked for.

    :param attempt: How many attempts there have been.
    :param error: What the last one ended with.
    :return: Seconds. Random, so that many don't come back at once.
    """
    asked = getattr(error, "retry_after", None) or 0.0
    return float(asked) + min(8.0, 2.0 ** (attempt - 1)) + random.uniform(0, 1)  # noqa: S311


def is_worth_another_try(error: BaseException) -> bool:
    """Check whether to repeat here: the error is transient, and asks for no longer wait than a worker should be held.

    :param error: What the last attempt ended with.
    :return: The decision.
    """
    return isinstance(error, SplashifyError) and error.retryable and (error.retry_after or 0) <= LONGEST_WAIT


def too_long_a_wait(wait: float) -> RateLimitError:
    """Return the error that hands a wait to Airflow that is too long to hold a worker for.

    :param wait: Seconds. No budget of our own asks for so many: only Splashify does.
    :return: The error.
    """
    return RateLimitError(
        429,
        f"Splashify has said that the rate limit of this key is reached for another {wait:.0f} s, so nothing is sent "
        "until then.\nGive the task retries with a retry_delay that outlasts it, or clear it later.",
        wait,
    )
