"""SplashifyHook: an Airflow connection, one HTTP exchange, a typed result."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import requests
from airflow.providers.common.compat.sdk import BaseHook
from requests.auth import AuthBase
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter
from urllib3.exceptions import HTTPError

from splashify_provider import __version__
from splashify_provider.exceptions import (
    InvalidAgentEmailError,
    SplashifyAPIError,
    SplashifyConfigurationError,
    SplashifyConnectionError,
    SplashifyError,
    error_from_response,
    json_object,
)
from splashify_provider.get_provider_info import get_provider_info
from splashify_provider.hooks.settings import Settings, settings_from_connection
from splashify_provider.phone_numbers import normalize_phone_number
from splashify_provider.redaction import hide, mask_phone_number, quote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tenacity import RetryCallState

# One whole window of the vendor's limit (100 requests a minute). Longer waits are Airflow's: they
# would hold a worker slot for nothing.
LONGEST_WAIT = 60.0

# What browsers accept in <input type="email"> (HTML standard), with the dot that a public domain has.
_EMAIL = re.compile(
    r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class AssignmentResult:
    """What Splashify did.

    :param user_phone_number: The customer's number as it was sent: digits only. Not part of the repr.
    :param agent_email: Who holds the conversation now; None if it was released.
    :param message: Splashify's own words.
    """

    user_phone_number: str = field(repr=False)
    agent_email: str | None
    message: str


def validate_agent_email(agent_email: object) -> str:
    """Refuse anything but an e-mail address: the API takes an empty one for *release this conversation*.

    :param agent_email: The address; blanks around it are dropped.
    :return: The address.
    :raises InvalidAgentEmailError: If it is missing, blank or malformed.
    """
    text = str("" if agent_email is None else agent_email).strip()
    if isinstance(agent_email, str) and len(text) <= 254 and _EMAIL.fullmatch(text):
        return text
    # In ASCII, so that invisible characters can be seen.
    what = f"{quote(text.encode('ascii', 'backslashreplace').decode())!r}, not an address" if text else "missing"
    raise InvalidAgentEmailError(
        f"The agent's e-mail is {what}. Nothing was sent. To take a conversation away from its agent, use "
        "release() or SplashifyReleaseOperator."
    )


class SplashifyHook(BaseHook):
    """Assign Splashify Pro conversations to agents.

    Every call is one POST, tried again (briefly, with jitter) only where waiting can heal it. That is safe:
    "re-assigning to the same agent is a no-op" (public-api/chat-assignment).

    :param splashify_conn_id: The Airflow connection: password = API key, host = base URL.
    :param default_region: Whose national phone numbers are understood, as ISO 3166-1 alpha-2. The
        connection's unless given.
    :param timeout: Seconds of silence after which an answer is given up. The connection's, else 30, unless given.
    :param max_attempts: How often one request is tried. The connection's, else 3, unless given.
    :param sleep: Waits between attempts, given seconds; for tests.
    """

    conn_name_attr = "splashify_conn_id"
    default_conn_name = "splashify_default"
    conn_type = "splashify"
    hook_name = "Splashify Pro"

    def __init__(
        self,
        splashify_conn_id: str = default_conn_name,
        *,
        default_region: str | None = None,
        timeout: float | None = None,
        max_attempts: int | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        super().__init__()
        self.splashify_conn_id = splashify_conn_id
        self._arguments = {"default_region": default_region, "timeout": timeout, "max_attempts": max_attempts}
        self._sleep = sleep or time.sleep

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Describe the connection form to Airflow before 3.2; later versions read the provider's metadata.

        :return: The same labels and placeholders, under the names the older versions use.
        """
        behaviour = get_provider_info()["connection-types"][0]["ui-field-behaviour"]
        return {key.replace("-", "_"): value for key, value in behaviour.items()}

    def assign(self, user_phone_number: object, agent_email: object) -> AssignmentResult:
        """Hand the customer's open conversation to an agent.

        :param user_phone_number: The customer's number, in any form :meth:`normalize_phone_number` reads.
        :param agent_email: The e-mail address of an active member of the workspace.
        :return: What Splashify did.
        :raises SplashifyError: One of its tree: nothing was sent, or it didn't succeed.
        """
        email = validate_agent_email(agent_email)
        phone = self.normalize_phone_number(user_phone_number)
        message = self._request(phone, email)
        self.log.info("Assigned %s to %s.", mask_phone_number(phone), email)
        return AssignmentResult(phone, email, message)

    def release(self, user_phone_number: object) -> AssignmentResult:
        """Take the customer's open conversation away from its agent: the only call that sends no agent.

        That an empty ``agent_email`` releases is said by the vendor's SDK (sdk-python, August 2026), not
        by the API's page.

        :param user_phone_number: The customer's number, in any form :meth:`normalize_phone_number` reads.
        :return: What Splashify did.
        :raises SplashifyError: One of its tree: nothing was sent, or it didn't succeed.
        """
        phone = self.normalize_phone_number(user_phone_number)
        message = self._request(phone, "")
        self.log.info("Released %s.", mask_phone_number(phone))
        return AssignmentResult(phone, None, message)

    def normalize_phone_number(self, user_phone_number: object) -> str:
        """Turn a number into the API's form, reading national ones in the connection's default region.

        :param user_phone_number: The number, in any common notation.
        :return: Country code and number, digits only.
        :raises InvalidPhoneNumberError: If it can't be read with certainty.
        :raises SplashifyConfigurationError: If the connection is wrong.
        """
        return normalize_phone_number(user_phone_number, self._settings.default_region)

    def test_connection(self) -> tuple[bool, str]:
        """Prove address and key without touching a conversation.

        Sends an empty object, which the API must refuse with 400 ("missing fields") because it names no
        customer; a wrong key is refused earlier, with 401.

        :return: Whether the connection works, and why (not).
        """
        try:
            status_code, headers, body = self._post({})
            error = self._error(status_code, headers, body)
        except SplashifyConnectionError as problem:
            return False, f"Unreachable: {problem}"
        except Exception as problem:  # no such connection, or its settings are wrong: the form shows it
            return False, str(problem)
        if status_code == requests.codes.bad_request and json_object(body):
            return True, "Splashify accepts the API key."
        if error is None or status_code == requests.codes.bad_request:
            return False, (
                f"HTTP {status_code}: the Base URL of connection {self.splashify_conn_id!r} does not answer as "
                "Splashify's API does."
            )
        return False, str(error)

    def get_conn(self) -> requests.Session:
        """Give the session that every call uses: authenticated, kept alive, built once on first use.

        :return: The session.
        :raises SplashifyConfigurationError: If the connection is wrong.
        """
        return self._session

    @cached_property
    def _settings(self) -> Settings:
        connection = self.get_connection(self.splashify_conn_id)
        if key := (connection.password or "").strip():
            _mask_secret(key)
        return settings_from_connection(connection, self._arguments, self.log.warning)

    @cached_property
    def _session(self) -> requests.Session:
        settings = self._settings
        session = _Session()
        session.auth = _RawKey(settings.auth_scheme, settings.api_key)
        session.headers["User-Agent"] = f"airflow-provider-splashify/{__version__}"
        # What the environment says of proxies and CA bundles is read once, here. After that it is not
        # trusted: no netrc file replaces the key, and no call pays for the look-up.
        environment = session.merge_environment_settings(
            settings.url, dict(settings.proxies), None, settings.verify, None
        )
        session.trust_env = False
        session.proxies = settings.allowed_proxies(environment["proxies"])
        session.verify = environment["verify"]
        return session

    def _request(self, phone: str, email: str) -> str:
        """POST one assignment, again while that is worthwhile. Return Splashify's message."""
        payload = {"user_phone_number": phone, "agent_email": email}
        attempts = Retrying(
            retry=retry_if_exception(_is_worth_another_try),
            stop=stop_after_attempt(self._settings.max_attempts),
            wait=_wait,
            sleep=self._sleep,
            before_sleep=self._log_retry,
            reraise=True,
        )
        return attempts(self._exchange, payload, phone, email)

    def _exchange(self, payload: dict[str, str], phone: str, email: str) -> str:
        """POST once. Return Splashify's message, or raise the error that the answer (or its lack) is."""
        status_code, headers, body = self._post(payload)
        error = self._error(status_code, headers, body, phone, email)
        if error is not None:
            raise error
        return quote(hide(str(json_object(body).get("message") or ""), self._settings.api_key))

    def _post(self, payload: dict[str, str]) -> tuple[int, Mapping[str, str], str]:
        """POST once. Return status, headers and body of the answer, or raise what kept it from arriving."""
        settings = self._settings
        # Raised `from None`: the frames behind these errors hold the Authorization header, and Airflow 3.0's
        # console and Sentry show the variables of every frame.
        try:
            response = self._session.post(settings.url, json=payload, timeout=settings.timeouts, allow_redirects=False)
        except requests.RequestException as error:
            raise self._connection_error(error) from None
        except (OSError, ValueError, HTTPError) as error:  # a CA bundle, a host or a proxy that can't be used
            raise self._unusable(error) from None
        return response.status_code, response.headers, response.content.decode("utf-8-sig", "replace")

    def _error(
        self,
        status_code: int,
        headers: Mapping[str, str],
        body: str,
        phone: str | None = None,
        email: str | None = None,
    ) -> SplashifyAPIError | None:
        return error_from_response(
            status_code,
            headers,
            body,
            conn_id=self.splashify_conn_id,
            api_key=self._settings.api_key,
            user_phone_number=phone,
            agent_email=email,
        )

    def _unusable(self, error: Exception) -> SplashifyConfigurationError:
        return SplashifyConfigurationError(
            f"Connection {self.splashify_conn_id!r} can't be used: {quote(hide(str(error), self._settings.api_key))}. "
            "Check its Base URL, verify and proxies."
        )

    def _connection_error(self, error: requests.RequestException) -> SplashifyError:
        """Name what went wrong below HTTP in words."""
        settings, text = self._settings, str(error)
        if isinstance(error, requests.exceptions.ProxyError):
            what = "the proxy can't be reached or refuses. Check the proxies of the connection or the environment"
        elif isinstance(error, requests.exceptions.SSLError):
            untrusted = re.search(r"certificate verify failed: ([^(\[]+)", text)
            what = (
                f"its certificate is not trusted ({untrusted[1].strip()}). Check Base URL and verify"
                if untrusted
                else "TLS failed. Check that host and port of the Base URL speak https"
            )
        elif isinstance(error, requests.exceptions.ConnectTimeout):
            what = f"no connection within {settings.timeouts[0]:g} s. Check that this worker may reach it"
        elif isinstance(error, requests.exceptions.ReadTimeout):
            what = f"no answer within {settings.timeouts[1]:g} s"
        elif "NameResolutionError" in text:
            what = "the name does not resolve. Check the Base URL, and this worker's DNS"
        elif "refused" in text:
            what = "the connection is refused. Check host and port of the Base URL"
        elif isinstance(error, (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError)):
            what = "the connection broke before the whole answer had arrived"
        elif isinstance(error, (requests.exceptions.ContentDecodingError, requests.exceptions.InvalidHeader)):
            what = "the answer is damaged"  # our own headers are checked before
        else:
            return self._unusable(error)
        return SplashifyConnectionError(
            f"No answer from {settings.host}: {what}. It is safe to try again: assigning to the same agent twice "
            "changes nothing."
        )

    def _log_retry(self, state: RetryCallState) -> None:
        assert state.outcome is not None  # noqa: S101 - tenacity calls this after an attempt
        self.log.warning(
            "Attempt %d of %d failed; next one in %.1f s. %s",
            state.attempt_number,
            self._settings.max_attempts,
            state.upcoming_sleep,
            state.outcome.exception(),
        )


class _Session(requests.Session):
    """A session that doesn't even look at redirects, where ordinary ones parse any Location a server sends."""

    def resolve_redirects(self, *_: Any, **__: Any) -> Any:
        return iter(())


class _RawKey(AuthBase):
    """Authorization as Splashify wants it: the scheme and the raw key, not base64.

    An auth object, because requests lets a netrc file replace a plain header.
    """

    def __init__(self, scheme: str, api_key: str) -> None:
        self._value = f"{scheme} {api_key}"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._value
        return request


_backoff = wait_exponential_jitter(max=8, jitter=1)


def _is_worth_another_try(error: BaseException) -> bool:
    """Decide whether to repeat: waiting may heal it, and not for longer than a worker should be held."""
    return isinstance(error, SplashifyError) and error.retryable and (error.retry_after or 0) <= LONGEST_WAIT


def _wait(state: RetryCallState) -> float:
    """Wait a random, growing time; on top of what the server asked for, so that many don't come back at once."""
    error = state.outcome.exception() if state.outcome else None
    return (getattr(error, "retry_after", None) or 0) + _backoff(state)


def _mask_secret(secret: str) -> None:
    """Have Airflow replace the secret in task logs, by whichever door this version has."""
    for module in ("airflow.sdk.log", "airflow.utils.log.secrets_masker"):  # Airflow 3, Airflow 2
        with suppress(ImportError, AttributeError):
            import_module(module).mask_secret(secret)
            return
