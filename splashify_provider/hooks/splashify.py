"""SplashifyHook: an Airflow connection, one HTTP exchange, a typed result."""

from __future__ import annotations

import hmac
import json
import os
import time
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from airflow.providers.common.compat.sdk import BaseHook
from tenacity import Retrying, retry_if_exception, stop_after_attempt
from urllib3.exceptions import HTTPError

from splashify_provider.agent_email import validate_agent_email
from splashify_provider.bulk import sender
from splashify_provider.bulk.decisions import MOST_IN_FLIGHT
from splashify_provider.client import is_worth_another_try, retry_delay
from splashify_provider.exceptions import (
    RateLimitError,
    SplashifyAPIError,
    SplashifyConnectionError,
    error_from_response,
    json_object,
)
from splashify_provider.get_provider_info import get_provider_info
from splashify_provider.hooks.session import connection_error, make_session, mask_secret
from splashify_provider.hooks.settings import Settings, settings_from_connection
from splashify_provider.phone_numbers import normalize_phone_number
from splashify_provider.rate_limit import Pacer, pacer_for
from splashify_provider.redaction import hide, mask_phone_number, quote

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    from tenacity import RetryCallState

    from splashify_provider.bulk.assignment import AssignmentOutcome


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


class SplashifyHook(BaseHook):
    """Assign Splashify Pro conversations to agents.

    Every call is one POST, tried again (briefly, with jitter) only where waiting can heal it. That is safe:
    "re-assigning to the same agent is a no-op" (public-api/chat-assignment).

    :param splashify_conn_id: The Airflow connection: password = API key, host = base URL.
    :param default_region: Whose national phone numbers are understood, as ISO 3166-1 alpha-2. The
        connection's unless given.
    :param timeout: Seconds of silence after which an answer is given up. The connection's, else 30, unless given.
    :param max_attempts: How often one request is tried. The connection's, else 3, unless given.
    :param requests_per_minute: What may be sent in any 60 seconds. The connection's, else 90, unless given.
    :param burst: How much of it may be sent at once. The connection's, else all, unless given.
    :param rate_limit_storage: Where that is counted: ``memory://``, so that each try of a task, being a process of
        its own, counts for itself, or ``redis://…``, for all of them. The connection's, else memory, unless given.
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
        requests_per_minute: int | None = None,
        burst: int | None = None,
        rate_limit_storage: str | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        super().__init__()
        self.splashify_conn_id = splashify_conn_id
        self._arguments = {
            "default_region": default_region,
            "timeout": timeout,
            "max_attempts": max_attempts,
            "requests_per_minute": requests_per_minute,
            "burst": burst,
            "rate_limit_storage": rate_limit_storage,
        }
        self._sleep = sleep or time.sleep
        self._sessions: dict[int, requests.Session] = {}  # by process

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

    def assign_many(
        self,
        assignments: Iterable[Mapping[str, Any]],
        *,
        max_in_flight: int = 8,
        max_consecutive_failures: int = 10,
        on_tick: Callable[[], object] | None = None,
    ) -> Generator[AssignmentOutcome, None, None]:
        """Hand many conversations to their agents, as fast as the key allows.

        Lazy: rows are read as they are needed, outcomes come as they are known (so not in the rows' order, except
        for one phone number's, of which the second waits for the first, and what is behind it too). What can't be
        sent doesn't stop the others; a key that is refused does, at once.

        :param assignments: Rows with ``user_phone_number`` and ``agent_email``.
        :param max_in_flight: How many requests may be waiting for their answer at once, 1 to 64.
        :param max_consecutive_failures: After so many failures in a row the rest is not attempted: Splashify is
            down, or the address is wrong.
        :param on_tick: Called before each request, and about once a second while there is none to send. What it raises
            ends the batch, once the answers under way have had two seconds to arrive.
        :return: One outcome for each row.
        :raises SplashifyConfigurationError: If the connection or an argument is wrong.
        """
        self.get_conn()  # before other threads need it
        return sender.assign_many(
            self.client,
            assignments,
            max_in_flight=max_in_flight,
            max_consecutive_failures=max_consecutive_failures,
            on_tick=on_tick,
        )

    @property
    def client(self) -> SplashifyHook:
        """What sends: the hook itself, so far."""
        return self

    @property
    def settings(self) -> Settings:
        """What the connection says."""
        return self._settings

    @property
    def limiter(self) -> Any:
        """The pacer, as bulk asks it."""
        return _Limiter(self.pacer)

    def send_assignment(self, user_phone_number: str, agent_email: str) -> str:
        """Send one assignment at once and only once."""
        return self._exchange(user_phone_number, agent_email)

    def fingerprint(self, text: str) -> bytes:
        """Hash a text with the API key: nobody who lacks it can find out the text by trying.

        :param text: The text.
        :return: 32 bytes.
        :raises SplashifyConfigurationError: If the connection is wrong.
        """
        return hmac.digest(self._settings.api_key.encode(), text.encode(), "sha256")

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
            self.pacer.try_acquire()  # counted, but nobody is kept waiting in front of a form
            status_code, headers, body = self._post({})
            error = self._error(status_code, headers, body)
        except SplashifyConnectionError as problem:
            return False, f"Unreachable: {problem}"
        except Exception as problem:  # no such connection, or its settings are wrong: the form shows it
            return False, str(problem)
        if isinstance(error, RateLimitError):
            self.pacer.pause(error.retry_after or retry_delay(1, None))
            return False, "HTTP 429: the rate limit of this key is reached at the moment. Try again in a minute."
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
            mask_secret(key)
        settings = settings_from_connection(connection, self._arguments, self.log.warning)
        if password := urlsplit(settings.budget.storage).password:
            mask_secret(password)
        return settings

    @cached_property
    def pacer(self) -> Pacer:
        """The door that every request of this key goes through, in this process."""
        return pacer_for(self._settings.budget)

    @property
    def _session(self) -> requests.Session:
        process = os.getpid()
        if process not in self._sessions:  # not the one from before a fork: both would read each other's answers
            self._sessions = {process: make_session(self._settings, MOST_IN_FLIGHT)}
        return self._sessions[process]

    @cached_property
    def _prepared(self) -> requests.PreparedRequest:
        """What all requests have in common: preparing takes longer than sending."""
        return self._session.prepare_request(requests.Request("POST", self._settings.url, json={}))

    def _request(self, phone: str, email: str) -> str:
        """POST one assignment, again while that is worthwhile. Return Splashify's message."""
        attempts = Retrying(
            retry=retry_if_exception(is_worth_another_try),
            stop=stop_after_attempt(self._settings.max_attempts),
            wait=lambda state: retry_delay(state.attempt_number, state.outcome.exception() if state.outcome else None),
            sleep=self._sleep,
            before_sleep=self._log_retry,
            reraise=True,
        )
        return attempts(self._paced_exchange, phone, email)

    def _paced_exchange(self, phone: str, email: str) -> str:
        self.pacer.acquire(self._sleep)
        try:
            return self._exchange(phone, email)
        except RateLimitError as error:
            self.pacer.pause(error.retry_after or retry_delay(1, None))
            raise

    def _exchange(self, phone: str, email: str) -> str:
        """POST once. Return Splashify's message, or raise the error that the answer (or its lack) is."""
        status_code, headers, body = self._post({"user_phone_number": phone, "agent_email": email})
        error = self._error(status_code, headers, body, phone, email)
        if error is not None:
            raise error
        return _fit_for_logs(str(json_object(body).get("message") or ""), self._settings.api_key)

    def _post(self, payload: dict[str, str]) -> tuple[int, Mapping[str, str], str]:
        """POST once. Return status, headers and body of the answer, or raise what kept it from arriving."""
        session, request = self._session, self._prepared.copy()
        request.prepare_body(json.dumps(payload).encode(), None)
        # Raised `from None`: the frames behind these errors hold the Authorization header, and Airflow 3.0's
        # console and Sentry show the variables of every frame.
        try:
            # By its adapter: Session.send would do no more here than follow redirects and keep cookies.
            response = session.get_adapter(self._settings.url).send(
                request,
                timeout=self._settings.timeouts,
                verify=session.verify,  # type: ignore[arg-type]  # never None: it was merged with True
                proxies=session.proxies,
            )
            content = response.content
        except (requests.RequestException, OSError, ValueError, HTTPError) as error:
            raise connection_error(error, self._settings, self.splashify_conn_id) from None
        return response.status_code, response.headers, content.decode("utf-8-sig", "replace")

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

    def _log_retry(self, state: RetryCallState) -> None:
        assert state.outcome is not None  # noqa: S101 - tenacity calls this after an attempt
        self.log.warning(
            "Attempt %d of %d failed; next one in %.1f s. %s",
            state.attempt_number,
            self._settings.max_attempts,
            state.upcoming_sleep,
            state.outcome.exception(),
        )


class _Limiter:
    def __init__(self, pacer: Pacer) -> None:
        self._pacer = pacer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pacer, name)

    def try_acquire(self) -> float:
        try:
            return self._pacer.try_acquire()
        except RateLimitError as error:
            return error.retry_after or 0.0


@lru_cache(maxsize=16)  # they are nearly always the same
def _fit_for_logs(message: str, api_key: str) -> str:
    return quote(hide(message, api_key))
