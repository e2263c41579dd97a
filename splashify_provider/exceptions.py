"""Everything that can go wrong, as types.

::

    SplashifyError
    ├── InvalidPhoneNumberError, InvalidAgentEmailError,
    │   RoutingError                                      (also ValueError)   nothing was sent
    ├── SplashifyConfigurationError                       the connection is wrong; nothing was sent
    ├── SplashifyConnectionError                          no usable answer: DNS, TLS, timeout, reset   *
    └── SplashifyAPIError(status_code, message)
        ├── AuthenticationError                           401
        ├── PermissionDeniedError                         403: plan, suspended account, IP allowlist
        ├── AgentNotFoundError                            400
        ├── AgentInactiveError                            400
        ├── ConversationNotFoundError                     400: the caller decides, fail or skip
        ├── BadRequestError                               any other 4xx
        ├── RateLimitError(retry_after)                   429                                          *
        ├── ServerError(retry_after)                      5xx                                          *
        └── UnexpectedResponseError                       anything that is neither success nor the above

    * ``retryable``: waiting may heal it. All others need a person.

Every text says what happened, to which number (its last four digits) and what to do about it. Neither
the API key nor a whole phone number is ever part of one.
"""

from __future__ import annotations

import json
import math
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from splashify_provider.rate_limit import LONGEST_RETRY_AFTER
from splashify_provider.redaction import hide, ip_address, mask_phone_number, quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MOST_PROBLEMS_SHOWN = 50


# What an assignment comes to: the two that are no error, then those that an error class below stands for.
Outcome = Literal[
    "assigned",
    "not_attempted",
    "conversation_not_found",
    "agent_not_found",
    "agent_inactive",
    "rejected",
    "invalid",
    "failed",
]


class SplashifyError(Exception):
    """Base of every error this package raises.

    :param message: What happened, and on a second line what to do about it.
    """

    retryable: ClassVar[bool] = False
    outcome: ClassVar[Outcome] = "rejected"
    """What an assignment that ends with this error has come to."""
    retry_after: float | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message

    @property
    def reason(self) -> str:
        """What happened, on one line."""
        return self.message.partition("\n")[0]

    @property
    def remedy(self) -> str:
        """What to do about it; empty where the reason says it all."""
        return self.message.partition("\n")[2]


class InvalidPhoneNumberError(SplashifyError, ValueError):
    """The phone number can't be read with certainty. Nothing was sent."""

    outcome = "invalid"


class InvalidAgentEmailError(SplashifyError, ValueError):
    """The agent's e-mail address is missing or malformed. Nothing was sent."""

    outcome = "invalid"


class RoutingError(SplashifyError, ValueError):
    """A roster, a calendar, a policy or the conversations can't be planned with. Nothing was sent.

    :param what: The problem in a sentence.
    :param problems: Where there are several: each with its position, field and reason.
    """

    def __init__(self, what: str, problems: Iterable[str] = ()) -> None:
        self.problems = list(problems)
        shown = self.problems[:_MOST_PROBLEMS_SHOWN]
        if more := len(self.problems) - len(shown):
            shown.append(f"and {more:,} more")
        super().__init__("\n  ".join([what, *shown]))
        self.args = (what, self.problems)  # so that the error survives pickling


class SplashifyConfigurationError(SplashifyError):
    """The Airflow connection or an argument is wrong. Nothing was sent."""


class SplashifyConnectionError(SplashifyError):
    """No usable answer arrived: DNS, TLS, refused, reset, timed out, cut off."""

    outcome = "failed"
    retryable = True


class SplashifyAPIError(SplashifyError):
    """Splashify answered, and the answer is not a success.

    :param status_code: The HTTP status of the answer.
    :param message: What happened and what to do about it.
    :param retry_after: Seconds until Splashify wants to hear from us again; None if it didn't say.
    """

    def __init__(self, status_code: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.args = (status_code, message)  # so that the error survives pickling
        self.status_code = status_code
        self.retry_after = retry_after


class AuthenticationError(SplashifyAPIError):
    """The API key is invalid, missing or replaced by a newer one."""


class PermissionDeniedError(SplashifyAPIError):
    """The key is known but may not do this.

    :param status_code: The HTTP status of the answer.
    :param message: What happened and what to do about it.
    :param ip: This worker's address as Splashify saw it, where its IP allowlist is the reason.
    """

    def __init__(self, status_code: int, message: str, ip: str | None = None) -> None:
        super().__init__(status_code, message)
        self.ip = ip


class AgentNotFoundError(SplashifyAPIError):
    """No team member has this e-mail address."""

    outcome = "agent_not_found"


class AgentInactiveError(SplashifyAPIError):
    """The team member exists, but their access is disabled."""

    outcome = "agent_inactive"


class ConversationNotFoundError(SplashifyAPIError):
    """The customer has no open conversation. Normal traffic: chats resolve themselves after a silence."""

    outcome = "conversation_not_found"


class BadRequestError(SplashifyAPIError):
    """Splashify refused the request for a reason that has no type of its own."""


class RateLimitError(SplashifyAPIError):
    """The key's budget of requests is used up."""

    outcome = "failed"
    retryable = True


class ServerError(SplashifyAPIError):
    """Splashify failed on its side."""

    outcome = "failed"
    retryable = True


class UnexpectedResponseError(SplashifyAPIError):
    """An answer outside the documented contract: a redirect, a 200 without ``result: true``, no JSON."""


# The reasons a 400 is documented to give (public-api/chat-assignment), with their remedies.
_DOCUMENTED_REASONS: dict[str, tuple[type[SplashifyAPIError], str]] = {
    "agent not found": (
        AgentNotFoundError,
        (
            "Agent not found: {agent} is not in this Splashify workspace; {phone} was not assigned. Add them under "
            "Settings → Team, then clear this task; or correct the address where it comes from."
        ),
    ),
    "agent inactive": (
        AgentInactiveError,
        (
            "Agent inactive: {agent} is disabled in Splashify; {phone} was not assigned. Enable them under Settings → "
            "Team, then clear this task; or take them off the roster and plan anew."
        ),
    ),
    "conversation not found": (
        ConversationNotFoundError,
        (
            "Conversation not found: {phone} has no open conversation. It was resolved, or the customer must write "
            "first; on_conversation_not_found='skip' takes that as normal."
        ),
    ),
}


def error_from_response(
    status_code: int,
    headers: Mapping[str, str],
    body: str,
    *,
    conn_id: str,
    api_key: str = "",
    user_phone_number: str | None = None,
    agent_email: str | None = None,
    now: datetime | None = None,
) -> SplashifyAPIError | None:
    """Read an answer of the assignment API.

    :param status_code: The HTTP status.
    :param headers: The answer's headers, looked up case-insensitively by the mapping itself.
    :param body: The answer's body.
    :param conn_id: The Airflow connection to name where the key or the address is at fault.
    :param api_key: The key, to be hidden where the answer repeats it.
    :param user_phone_number: The number that was sent; only its last four digits are used.
    :param agent_email: The agent who was sent.
    :param now: The time against which a ``Retry-After`` date is measured; the clock's unless given.
    :return: The error that the answer is, or None if it is a success: 200 and ``result`` true.
    """
    payload = json_object(body)
    if status_code == HTTPStatus.OK and payload.get("result") is True:
        return None
    # `message` in the public envelope, `error` in the one of Splashify's gateway and app routes.
    texts = [payload.get(key) for key in ("message", "error")]
    said = next((text for text in texts if isinstance(text, str) and text.strip()), "")
    answer = f"HTTP {status_code}" + (f": {quote(hide(said, api_key))}" if said else "")
    retry_after = _retry_after(headers, payload, now or datetime.now(timezone.utc))
    phone = mask_phone_number(user_phone_number) if user_phone_number else "the conversation"
    done = "released" if agent_email == "" else "assigned"

    if status_code < HTTPStatus.MULTIPLE_CHOICES:
        return UnexpectedResponseError(
            status_code,
            f"Splashify answered ({answer}) without confirming that {phone} was {done} (no `result: true`). "
            f"Look into the inbox, and check that the Base URL of connection {conn_id!r} is Splashify's API.",
        )
    if status_code == HTTPStatus.BAD_REQUEST:
        for reason, (error, text) in _DOCUMENTED_REASONS.items():
            if reason in " ".join(said.split()).casefold():
                return error(status_code, text.format(agent=agent_email, phone=phone))
    if status_code == HTTPStatus.UNAUTHORIZED:
        return AuthenticationError(
            status_code,
            f"Splashify does not accept the API key of connection {conn_id!r} ({answer}). Making a new key "
            "ends the old one at once: copy the current one from Settings → Developer into the "
            "connection's API key, then clear this task.",
        )
    if status_code == HTTPStatus.FORBIDDEN:
        return _permission_denied(status_code, payload, answer, conn_id)
    if status_code == HTTPStatus.TOO_MANY_REQUESTS:
        wait = "did not say for how long" if retry_after is None else f"asks to wait {retry_after:.0f} s"
        return RateLimitError(
            status_code,
            f"Rate limit reached (HTTP 429): {phone} was not {done}, and Splashify {wait}. The limit counts everything "
            f"that uses the key of connection {conn_id!r}. Give the task retries with a retry_delay that outlasts it, "
            "or clear it later.",
            retry_after,
        )
    if status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ServerError(
            status_code,
            f"Splashify failed on its side ({answer}) while {phone} was being {done}. Repeating is safe: "
            "give the task retries, or clear it later; if it lasts, ask Splashify's support.",
            retry_after,
        )
    if status_code >= HTTPStatus.BAD_REQUEST:
        return BadRequestError(
            status_code,
            f"Splashify refused the request, and {phone} was not {done} ({answer}). "
            + (
                f"There is no such address: the Base URL of connection {conn_id!r} must end in the API's "
                "version, as in https://apis.splashifypro.com/api/v1."
                if status_code == HTTPStatus.NOT_FOUND
                else "The request itself is at fault, so repeating it won't help."
            ),
        )
    location = headers.get("Location")
    return UnexpectedResponseError(
        status_code,
        f"Splashify answered {answer}"
        + (f", a redirect to {quote(hide(location.split('?')[0], api_key))}" if location else "")
        + f"; {phone} was not {done}. Redirects are never followed: they would turn the request into a page "
        f"view that answers 200. Correct the Base URL of connection {conn_id!r}.",
    )


def _permission_denied(status_code: int, payload: dict[str, Any], answer: str, conn_id: str) -> PermissionDeniedError:
    """Tell the three forms of 403 apart: IP allowlist, plan, and the rest."""
    if payload.get("code") == "ip_blocked":
        ip = ip_address(payload.get("ip"))
        return PermissionDeniedError(
            status_code,
            f"Splashify's IP allowlist refuses this worker's address {ip or '(not named)'} (HTTP {status_code}, "
            f"ip_blocked). Add {ip or 'it'} to the allowlist in Splashify's settings, then clear this task.",
            ip,
        )
    if payload.get("error") == "plan_required":
        reason = "the workspace's plan does not include the public API (Growth, Advanced and Enterprise do)"
    else:
        reason = "the plan lacks the public API, or the WhatsApp account is suspended"
    return PermissionDeniedError(
        status_code,
        f"Splashify knows the key of connection {conn_id!r} but does not permit this ({answer}): {reason}. "
        "An admin of the workspace can mend that; then clear this task.",
    )


def json_object(body: str) -> dict[str, Any]:
    """Read a JSON object.

    :param body: The text.
    :return: The object; an empty one if the text is anything else.
    """
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return payload if isinstance(payload, dict) else {}


def _retry_after(headers: Mapping[str, str], payload: dict[str, Any], now: datetime) -> float | None:
    """Read ``Retry-After``: the header (seconds or a date), then the JSON body.

    RFC 9110 defines the header; Splashify's SDK says "the response body includes Retry-After".
    """
    in_body = {str(key).lower().replace("_", "").replace("-", ""): value for key, value in payload.items()}
    for value in (headers.get("Retry-After"), in_body.get("retryafter")):
        seconds = _seconds(value, now)
        if seconds is not None:
            return seconds
    return None


def _seconds(value: object, now: datetime) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        seconds = float(str(value))
    except ValueError:
        try:
            date = parsedate_to_datetime(str(value))
        except (ValueError, OverflowError):
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or timezone.utc) - now).total_seconds()
        return min(max(0.0, seconds), LONGEST_RETRY_AFTER)
    return min(seconds, LONGEST_RETRY_AFTER) if math.isfinite(seconds) and seconds >= 0 else None
