"""Splashify's public API over HTTP, without Airflow: one exchange with any endpoint, bounded and typed.

Whatever the server does, an exchange ends within its deadline and takes at most a megabyte. A connection on which more
than one answer has arrived is not used again, so that the next request can't read this one's.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import os
import random
import time
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase
from tenacity import Retrying, retry_if_exception, stop_after_attempt
from urllib3 import Timeout
from urllib3.exceptions import HTTPError

from splashify_provider import __version__
from splashify_provider.bounded_http import MOST_BYTES, BoundedAdapter, read_body, what_broke
from splashify_provider.exceptions import (
    RateLimitError,
    SplashifyConfigurationError,
    SplashifyConnectionError,
    SplashifyError,
    UnexpectedResponseError,
    error_from_response,
    json_object,
)
from splashify_provider.phone_numbers import normalize_phone_number
from splashify_provider.rate_limit import LONGEST_WAIT, Budget, RateLimiter, limiter_for
from splashify_provider.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tenacity import RetryCallState

log = logging.getLogger(__name__)

DEFAULT_BASE_URL = "https://apis.splashifypro.com/api/v1"
ASSIGNMENT = "/public/assignment/"  # with its trailing slash: without, the API answers 301
MOST_CONNECTIONS = 64
_CONNECT_TIMEOUT = 10.0


@dataclass(frozen=True)
class ClientSettings:
    """What a client needs to know, checked.

    :param conn_id: The Airflow connection that errors name.
    :param base_url: Where the API is, without a slash at the end.
    :param api_key: The raw key. Not part of the repr.
    :param auth_scheme: The word before the key, ``Basic`` or ``Bearer``.
    :param default_region: The region whose national phone numbers are understood, or None.
    :param timeout: Deadline of one exchange in seconds: from the start of connecting, which takes at most ten of them
        for each address of the host (through a proxy, ten more each for CONNECT and TLS), to the last byte of the
        answer.
    :param max_attempts: How often one request is tried.
    :param budget: What may be sent in which time, and where that is counted.
    :param proxies: By scheme, as requests takes them. Not part of the repr: they may carry a password.
    :param verify: Whether to check the server's certificate, or the CA bundle to check it against; None leaves it to
        the environment.
    """

    conn_id: str
    base_url: str
    api_key: str = field(repr=False)
    auth_scheme: str
    default_region: str | None
    timeout: float
    max_attempts: int
    budget: Budget
    proxies: Mapping[str, str] = field(repr=False)
    verify: bool | str | None


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


class SplashifyClient:
    """Splashify's public API.

    :param settings: Where it is, the key, and the bounds.
    :param sleep: Waits between attempts, given seconds; for tests.
    :param warn: Logs a warning, given a format and its arguments; for Airflow's task log.
    """

    def __init__(
        self,
        settings: ClientSettings,
        *,
        sleep: Callable[[float], None] = time.sleep,
        warn: Callable[..., object] = log.warning,
    ) -> None:
        self.settings = settings
        self.limiter: RateLimiter = limiter_for(settings.budget)
        self._sleep, self._warn = sleep, warn
        # urllib3's, which requests hands on: its own has no deadline.
        self._timeout: Any = Timeout(connect=min(settings.timeout, _CONNECT_TIMEOUT), total=settings.timeout)
        self._sessions: dict[int, requests.Session] = {}  # by process
        self._prepared: dict[tuple[str, str, bool], requests.PreparedRequest] = {}

    @property
    def session(self) -> requests.Session:
        """The session that every exchange uses: authenticated, kept alive, built once in each process."""
        process = os.getpid()
        if process not in self._sessions:  # not the one from before a fork: both would read each other's answers
            self._sessions = {process: _make_session(self.settings)}
        return self._sessions[process]

    def assign(self, user_phone_number: str, agent_email: str) -> str:
        """Send one assignment, paced, and again where that is worthwhile.

        :param user_phone_number: The customer's number in the API's form.
        :param agent_email: The agent's address; empty to release, says the vendor's SDK (sdk-python, August 2026).
        :return: Splashify's message.
        :raises SplashifyError: One of its tree.
        """
        attempts = Retrying(
            retry=retry_if_exception(is_worth_another_try),
            stop=stop_after_attempt(self.settings.max_attempts),
            wait=lambda state: retry_delay(state.attempt_number, state.outcome.exception() if state.outcome else None),
            sleep=self._sleep,
            before_sleep=self._log_retry,
            reraise=True,
        )
        return attempts(self._assign_in_turn, user_phone_number, agent_email)

    def _assign_in_turn(self, user_phone_number: str, agent_email: str) -> str:
        while wait := self.limiter.try_acquire():
            if wait > LONGEST_WAIT:
                raise too_long_a_wait(wait)
            self._sleep(wait)
        try:
            return self.send_assignment(user_phone_number, agent_email)
        except RateLimitError as error:
            self.limiter.pause(error.retry_after or retry_delay(1, None))
            raise

    def send_assignment(self, user_phone_number: str, agent_email: str) -> str:
        """Send one assignment at once and only once, from any thread.

        :param user_phone_number: The customer's number in the API's form.
        :param agent_email: The agent's address; empty to release.
        :return: Splashify's message.
        :raises SplashifyError: One of its tree.
        """
        answer = self.exchange(
            "POST",
            ASSIGNMENT,
            {"user_phone_number": user_phone_number, "agent_email": agent_email},
            user_phone_number=user_phone_number,
            agent_email=agent_email,
        )
        return _message(str(answer.get("message") or ""), self.settings.api_key)

    def exchange(
        self,
        method: str,
        path: str,
        payload: object = None,
        *,
        user_phone_number: str | None = None,
        agent_email: str | None = None,
        not_done: str | None = None,
    ) -> dict[str, Any]:
        """Send one request to any endpoint, once, without asking the limiter.

        :param method: The HTTP method.
        :param path: The endpoint below the base URL, as it is documented: with or without a slash at its end.
        :param payload: What becomes the JSON body; no body if None.
        :param user_phone_number: The customer whom errors name by the last four digits.
        :param agent_email: The agent whom errors name.
        :param not_done: What an error means, as a clause: "the contacts were not read". That the conversation was not
            assigned, or released where ``agent_email`` is empty, unless given.
        :return: The JSON object that the answer is.
        :raises SplashifyError: What the answer, or its lack, means.
        """
        status_code, headers, body = self.send(method, path, payload)
        error = error_from_response(
            status_code,
            headers,
            body,
            conn_id=self.settings.conn_id,
            api_key=self.settings.api_key,
            user_phone_number=user_phone_number,
            agent_email=agent_email,
            not_done=not_done,
        )
        if error is not None:
            raise error
        return json_object(body)

    def send(self, method: str, path: str, payload: object = None) -> tuple[int, Mapping[str, str], str]:
        """Send one request to any endpoint, and read whatever is answered.

        :param method: The HTTP method.
        :param path: The endpoint below the base URL.
        :param payload: What becomes the JSON body; no body if None.
        :return: Status, headers and body of the answer.
        :raises SplashifyConnectionError: If no whole answer arrives before the deadline.
        :raises SplashifyConfigurationError: If the address can't be used.
        :raises UnexpectedResponseError: If the answer is too large.
        """
        session = self.session
        try:
            request = self._prepared_request(session, method, path, payload is not None).copy()
            if payload is not None:
                request.prepare_body(json.dumps(payload).encode(), None)
            # By its adapter: Session.send would do no more here than follow redirects and keep cookies.
            response = session.get_adapter(str(request.url)).send(
                request,
                stream=True,
                timeout=self._timeout,
                verify=session.verify,  # type: ignore[arg-type]  # never None: it was merged with True
                proxies=session.proxies,
            )
            body = read_body(response)
        except (requests.RequestException, OSError, ValueError, HTTPError, HTTPException, zlib.error) as error:
            failure = _connection_error(error, self.settings, self._timeout)
        except BaseException as error:
            # A time-out or a stop of Airflow's strikes anywhere: the frames behind it hold the Authorization header.
            error.__context__ = None
            raise error.with_traceback(None)  # noqa: B904 - it is the very error
        else:
            if len(body) <= MOST_BYTES:
                return response.status_code, response.headers, body.decode("utf-8-sig", "replace")
            failure = _too_large(response.status_code)
        raise failure from None  # not in an except clause: the frames behind the other error would be its context's

    def normalize_phone_number(self, raw: object) -> str:
        """Return a number in the API's form, reading national ones in the settings' default region.

        :param raw: The number, in any common notation.
        :return: Country code and number, digits only.
        :raises InvalidPhoneNumberError: If it can't be read with certainty.
        """
        return normalize_phone_number(raw, self.settings.default_region)

    def fingerprint(self, text: str) -> bytes:
        """Return a hash of a text that nobody who lacks the API key can find the text by.

        :param text: The text.
        :return: 32 bytes.
        """
        return hmac.digest(self.settings.api_key.encode(), text.encode(), "sha256")

    def _prepared_request(
        self, session: requests.Session, method: str, path: str, has_body: bool
    ) -> requests.PreparedRequest:
        """Return what all requests to an endpoint have in common: preparing takes longer than sending."""
        key = method, path, has_body
        if key not in self._prepared:
            request = requests.Request(method, self.settings.base_url + path, json={} if has_body else None)
            self._prepared[key] = session.prepare_request(request)
        return self._prepared[key]

    def _log_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self._warn(
            "Attempt %d of %d failed; next one in %.1f s. %s",
            state.attempt_number,
            self.settings.max_attempts,
            state.upcoming_sleep,
            getattr(error, "reason", ""),
        )


@lru_cache(maxsize=16)  # messages are nearly always the same
def _message(text: str, api_key: str) -> str:
    return redact(text, api_key)


def _make_session(settings: ClientSettings) -> requests.Session:
    session = requests.Session()
    session.auth = _RawKey(settings)
    session.headers["User-Agent"] = f"airflow-provider-splashify/{__version__}"
    session.headers["Accept-Encoding"] = "identity"  # nothing here is large, and bombs are compressed
    # What the environment says of proxies and CA bundles is read once, here. After that it is not trusted: no netrc
    # file replaces the key, and no call pays for the look-up.
    environment = session.merge_environment_settings(
        settings.base_url, dict(settings.proxies), None, settings.verify, None
    )
    session.trust_env = False
    session.proxies = _allowed_proxies(settings.base_url, environment["proxies"])
    session.verify = environment["verify"]
    for scheme in ("https://", "http://"):
        session.mount(scheme, BoundedAdapter(pool_maxsize=MOST_CONNECTIONS))
    return session


def _allowed_proxies(base_url: str, proxies: Mapping[str, str]) -> dict[str, str]:
    """Keep plain http on this machine: to loopback directly, or through a proxy that is on it too."""
    if base_url.startswith("https:"):
        return dict(proxies)
    return {key: proxy for key, proxy in proxies.items() if is_loopback(host_of(proxy))}


def host_of(url: str) -> str | None:
    """Return the host of an address.

    :param url: The address, with or without a scheme.
    :return: The host; None if there is none, or the port is none.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        return parts.hostname if parts.port != 0 else None
    except ValueError:
        return None


def is_loopback(host: str | None) -> bool:
    """Check whether a host is this machine.

    :param host: A name or an IP address.
    :return: The answer.
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


class _RawKey(AuthBase):
    """Authorization as Splashify wants it: the scheme and the raw key, not base64.

    An auth object, because requests lets a netrc file replace a plain header.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._base_url, self._value = settings.base_url + "/", f"{settings.auth_scheme} {settings.api_key}"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if str(request.url).startswith(self._base_url):  # nobody else is shown the key
            request.headers["Authorization"] = self._value
        return request


def _too_large(status_code: int) -> SplashifyError:
    return UnexpectedResponseError(
        status_code,
        f"Splashify's answer (HTTP {status_code}) has more than {MOST_BYTES:,} bytes, and was not read any further.\n"
        "Look into the inbox, and check that the Base URL of the connection is Splashify's API.",
    )


def _connection_error(error: Exception, settings: ClientSettings, timeout: Timeout) -> SplashifyError:
    """Name what kept an answer from arriving."""
    what = what_broke(error, timeout)
    if what is None:  # a CA bundle, a host or a proxy that can't be used
        return SplashifyConfigurationError(
            f"Connection {settings.conn_id!r} can't be used: {redact(error, settings.api_key)}. Nothing was sent.\n"
            "Check its Base URL, verify and proxies."
        )
    return SplashifyConnectionError(
        f"No answer from {urlsplit(settings.base_url).netloc}: {what}.\n"
        "It is safe to try again: assigning to the same agent twice changes nothing."
    )
