"""Everything that can go wrong, as types.

::

    SplashifyError
    ├── InvalidPhoneNumberError, InvalidAgentEmailError,
    │   RoutingError                                      (also ValueError)   nothing was sent
    ├── SplashifyConfigurationError                       connection or argument is wrong; nothing was sent
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

    * ``retryable``: a transient error. All others are permanent: they need a person.

Every text says on one line what happened, to which number (its last four digits), and on the next what to do about it.
Neither the API key nor a whole phone number is ever part of one.
"""

from __future__ import annotations

import json
import math
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from splashify_provider.rate_limit import LONGEST_RETRY_AFTER
from splashify_provider.redaction import ip_address, mask_phone_number, redact

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MOST_PROBLEMS_SHOWN = 50


# What an assignment or a release comes to: the three that are no error, then those that an error class stands for.
Outcome = Literal[
    "assigned",
    "released",
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


_Text = tuple[type[SplashifyAPIError], str, str]

# The reasons a 400 is documented to give (public-api/chat-assignment).
_DOCUMENTED_REASONS: dict[str, _Text] = {
    "agent not found": (
        AgentNotFoundError,
        "Agent not found: {agent} is not in this Splashify workspace; {not_done}.",
        "Add them under Settings → Team, or correct the address where it comes from.",
    ),
    "agent inactive": (
        AgentInactiveError,
        "Agent inactive: {agent} is disabled in Splashify; {not_done}.",
        "Enable them under Settings → Team, or take them off the roster.",
    ),
    "conversation not found": (
        ConversationNotFoundError,
        "Conversation not found: {phone} has no open conversation.",
        "It was resolved, or the customer must write first; on_conversation_not_found='skip' takes that as normal.",
    ),
}
_PERMISSION_DENIED = "Splashify knows the key of connection {conn_id!r} but does not permit this ({text}): "
_ASK_AN_ADMIN = "An admin of the workspace can fix that."
_REASONS_OF_403: dict[str, _Text] = {
    "ip_blocked": (
        PermissionDeniedError,
        "Splashify's IP allowlist refuses this worker's address {address} (HTTP 403, ip_blocked): {not_done}.",
        "Add {address} to the allowlist in Splashify's settings.",
    ),
    "plan_required": (
        PermissionDeniedError,
        _PERMISSION_DENIED + "the workspace's plan does not include the public API (Growth, Advanced and Enterprise "
        "do); {not_done}.",
        _ASK_AN_ADMIN,
    ),
}
_BY_STATUS: dict[int, _Text] = {
    401: (
        AuthenticationError,
        "Splashify does not accept the API key of connection {conn_id!r} ({text}): {not_done}.",
        (
            "Put the key that is valid now into the connection's API key. If it is lost, make a new one under Settings "
            "→ Developer, which ends the old one at once."
        ),
    ),
    403: (
        PermissionDeniedError,
        _PERMISSION_DENIED + "the plan lacks the public API, or the WhatsApp account is suspended; {not_done}.",
        _ASK_AN_ADMIN,
    ),
    404: (
        BadRequestError,
        "Splashify refused the request ({text}): there is no such address, and {not_done}.",
        (
            "Correct the Base URL of connection {conn_id!r}: Splashify's is https://apis.splashifypro.com/api/v1, "
            "which is also what an empty one means."
        ),
    ),
    429: (
        RateLimitError,
        "Rate limit reached (HTTP 429): {not_done}, and Splashify {wait}.",
        (
            "The limit counts everything that uses the key of connection {conn_id!r}. Give the task retries with a "
            "retry_delay that outlasts it, or clear it later."
        ),
    ),
}
_BY_HUNDREDS: dict[int, _Text] = {
    2: (
        UnexpectedResponseError,
        "Splashify answered ({text}) without `result: true`, so perhaps {not_done}.",
        "Look into the inbox, and check that the Base URL of connection {conn_id!r} is Splashify's API.",
    ),
    3: (
        UnexpectedResponseError,
        "Splashify answered {text}{location}; {not_done}.",
        (
            "Correct the Base URL of connection {conn_id!r}. Redirects are never followed: they would turn the "
            "request into a page view that answers 200."
        ),
    ),
    4: (
        BadRequestError,
        "Splashify refused the request ({text}): {not_done}.",
        "Repeating it won't help: correct the request, or ask Splashify's support what is wrong with it.",
    ),
    5: (
        ServerError,
        "Splashify failed on its side ({text}), so perhaps {not_done}.",
        "Repeating is safe: give the task retries, or clear it later; if it lasts, ask Splashify's support.",
    ),
}


def _text_of(status_code: int, payload: Mapping[str, Any], said: str) -> _Text:
    """Find the most exact thing there is to say about an answer."""
    by_status = _BY_STATUS.get(status_code) or _BY_HUNDREDS.get(status_code // 100, _BY_HUNDREDS[2])
    if status_code == HTTPStatus.BAD_REQUEST:
        words = " ".join(said.split()).casefold()
        return next((text for reason, text in _DOCUMENTED_REASONS.items() if reason in words), by_status)
    if status_code == HTTPStatus.FORBIDDEN:  # `code` in one envelope, `error` in the other
        codes = (payload.get("code"), payload.get("error"))
        return next((text for reason, text in _REASONS_OF_403.items() if reason in codes), by_status)
    return by_status


def error_from_response(
    status_code: int,
    headers: Mapping[str, str],
    body: str,
    *,
    conn_id: str,
    api_key: str = "",
    user_phone_number: str | None = None,
    agent_email: str | None = None,
    not_done: str | None = None,
    now: datetime | None = None,
) -> SplashifyAPIError | None:
    """Read an answer of Splashify's public API.

    :param status_code: The HTTP status.
    :param headers: The answer's headers, looked up case-insensitively by the mapping itself.
    :param body: The answer's body.
    :param conn_id: The Airflow connection to name where the key or the address is at fault.
    :param api_key: The key, to be redacted where the answer repeats it.
    :param user_phone_number: The number that was sent; only its last four digits are used.
    :param agent_email: The agent who was sent; empty for a release.
    :param not_done: What an error means for the caller, as a clause: "the contacts were not read". That the number (or
        "the conversation") was not assigned or released, unless given.
    :param now: The time against which a ``Retry-After`` date is measured; the clock's unless given.
    :return: The error that the answer is, or None if it is a success: 200 and ``result`` true.
    """
    payload = json_object(body)
    if status_code == HTTPStatus.OK and payload.get("result") is True:
        return None
    # `message` in the public envelope, `error` in the one of Splashify's gateway and app routes.
    texts = [payload.get(key) for key in ("message", "error")]
    said = next((text for text in texts if isinstance(text, str) and text.strip()), "")
    said = redact(said, api_key)
    phone = mask_phone_number(user_phone_number) if user_phone_number else "the conversation"
    retry_after = _retry_after(headers, payload, now or datetime.now(timezone.utc))
    location, ip = headers.get("Location"), ip_address(payload.get("ip"))
    kind, reason, remedy = _text_of(status_code, payload, said)
    message = f"{reason}\n{remedy}".format(
        text=f"HTTP {status_code}" + (f": {said}" if said else ""),
        conn_id=conn_id,
        phone=phone,
        agent=agent_email,
        not_done=not_done or f"{phone} was not {'released' if agent_email == '' else 'assigned'}",
        wait="did not say for how long" if retry_after is None else f"asks to wait {retry_after:.0f} s",
        location=f", a redirect to {redact(location.split('?')[0], api_key)}" if location else "",
        address=ip or "(not named)",
    )
    error = kind(status_code, message)
    if isinstance(error, (RateLimitError, ServerError)):
        error.retry_after = retry_after
    if isinstance(error, PermissionDeniedError):
        error.ip = ip
    return error


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
