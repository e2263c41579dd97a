"""SplashifyHook: an Airflow connection and the client."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import BaseHook

from splashify_provider.agent_email import validate_agent_email
from splashify_provider.bulk.sender import assign_many
from splashify_provider.client import ASSIGNMENT, SplashifyClient, retry_delay, too_long_a_wait
from splashify_provider.connection import mask_secret, settings_from_connection
from splashify_provider.exceptions import (
    RateLimitError,
    SplashifyConfigurationError,
    SplashifyConnectionError,
    SplashifyError,
    error_from_response,
    json_object,
)
from splashify_provider.get_provider_info import get_provider_info
from splashify_provider.rate_limit import LONGEST_WAIT, WINDOW
from splashify_provider.redaction import mask_phone_number, redact, without_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    import requests

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

    Every call is one POST, sent again (briefly, with jitter) only after transient errors. That is safe: "re-assigning
    to the same agent is a no-op" (public-api/chat-assignment).

    :param splashify_conn_id: The Airflow connection: password = API key, host = base URL.
    :param default_region: The region whose national phone numbers are understood, as ISO 3166-1 alpha-2. The
        connection's unless given.
    :param timeout: Deadline of one request in seconds, from connecting (at most ten of them for each address of the
        host) to the last byte of the answer. The connection's, else 30, unless given.
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
        self._sleep = sleep

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return the connection form for Airflow before 3.2; later versions read the provider's metadata.

        :return: The same labels and placeholders, under the names that the older versions use.
        """
        behaviour = get_provider_info()["connection-types"][0]["ui-field-behaviour"]
        return {key.replace("-", "_"): value for key, value in behaviour.items()}

    @without_frames(SplashifyError)
    def assign(self, user_phone_number: object, agent_email: object) -> AssignmentResult:
        """Hand the customer's open conversation to an agent.

        :param user_phone_number: The customer's number, in any form :meth:`normalize_phone_number` reads.
        :param agent_email: The e-mail address of an active member of the workspace.
        :return: What Splashify did.
        :raises SplashifyError: One of its tree: nothing was sent, or it didn't succeed.
        """
        email = validate_agent_email(agent_email, user_phone_number)
        phone = self.client.normalize_phone_number(user_phone_number)
        message = self.client.assign(phone, email)
        self.log.info("Assigned %s to %s.", mask_phone_number(phone), email)
        return AssignmentResult(phone, email, message)

    @without_frames(SplashifyError)
    def release(self, user_phone_number: object) -> AssignmentResult:
        """Take the customer's open conversation away from its agent: the only call that sends no agent.

        That an empty ``agent_email`` releases is said by the vendor's SDK (sdk-python, August 2026), not
        by the API's page.

        :param user_phone_number: The customer's number, in any form :meth:`normalize_phone_number` reads.
        :return: What Splashify did.
        :raises SplashifyError: One of its tree: nothing was sent, or it didn't succeed.
        """
        phone = self.client.normalize_phone_number(user_phone_number)
        message = self.client.assign(phone, "")
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
        for one phone number's, of which the second waits for the first, and what is behind it too). A row that can't be
        sent doesn't stop the others; a key that is refused does, at once.

        Each agent's first request goes alone, while up to 1,000 rows wait. Who is refused (not found, inactive) is not
        asked again: their other rows go to the next in line, or end with that outcome, without a request.

        :param assignments: Rows with ``user_phone_number``, ``agent_email`` and, if wanted, ``fallback_agents``: who is
            next in line where Splashify refuses that agent.
        :param max_in_flight: How many requests may be waiting for their answer at once, 1 to 64.
        :param max_consecutive_failures: After so many failures in a row the rest is not attempted: Splashify is
            down, or the address is wrong. 400s that concern a single row don't count.
        :param on_tick: Called before each request, and about once a second while there is none to send. What it raises
            ends the batch, once the answers under way have had two seconds to arrive.
        :return: One outcome for each row.
        :raises SplashifyConfigurationError: If the connection or an argument is wrong.
        """
        return assign_many(
            self.client,
            assignments,
            max_in_flight=max_in_flight,
            max_consecutive_failures=max_consecutive_failures,
            on_tick=on_tick,
        )

    @without_frames(SplashifyError)
    def normalize_phone_number(self, user_phone_number: object) -> str:
        """Return a number in the API's form, reading national ones in the connection's default region.

        :param user_phone_number: The number, in any common notation.
        :return: Country code and number, digits only.
        :raises InvalidPhoneNumberError: If it can't be read with certainty.
        :raises SplashifyConfigurationError: If the connection is wrong.
        """
        return self.client.normalize_phone_number(user_phone_number)

    def test_connection(self) -> tuple[bool, str]:
        """Prove address and key without touching a conversation.

        Sends an empty object, which the API must refuse with 400 ("missing fields") because it names no
        customer; a wrong key is refused earlier, with 401.

        :return: Whether the connection works, and why (not).
        """
        try:
            client = self.client
            if (wait := client.limiter.try_acquire()) > LONGEST_WAIT:  # nobody is kept waiting in front of a form
                raise too_long_a_wait(wait)
            status_code, headers, body = client.send("POST", ASSIGNMENT, {})
        except SplashifyConnectionError as problem:
            return False, f"Unreachable: {problem.reason}"
        except RateLimitError as problem:
            return False, problem.reason
        except Exception as problem:  # no such connection, or its settings are wrong: the form shows it
            return False, " ".join(str(problem).splitlines())
        error = error_from_response(
            status_code,
            headers,
            body,
            conn_id=self.splashify_conn_id,
            api_key=client.settings.api_key,
            not_done="the key could not be checked",
        )
        if isinstance(error, RateLimitError):
            client.limiter.pause(error.retry_after or retry_delay(1, None))
            wait = error.retry_after or WINDOW
            return False, f"HTTP 429: the rate limit of this key is reached at the moment. Try again in {wait:.0f} s."
        if status_code == HTTPStatus.BAD_REQUEST and json_object(body):
            return True, "Splashify accepts the API key."
        if error is None or status_code == HTTPStatus.BAD_REQUEST or status_code < HTTPStatus.MULTIPLE_CHOICES:
            return False, (
                f"HTTP {status_code}: the Base URL of connection {self.splashify_conn_id!r} does not answer as "
                "Splashify's API does."
            )
        if error.retryable:
            return False, f"{error.reason} Try again; if it lasts, ask Splashify's support."
        return False, f"{error.reason} {error.remedy}"

    def get_conn(self) -> requests.Session:
        """Return the session that every call uses: authenticated, kept alive, built once on first use.

        Answers are bounded there too: two megabytes, and the timeout as a deadline for each (60 seconds without one).

        :return: The session.
        :raises SplashifyConfigurationError: If the connection is wrong.
        """
        return self.client.session

    @cached_property
    def client(self) -> SplashifyClient:
        """The client for this connection, made on first use."""
        return self._make_client()

    @without_frames(SplashifyError)
    def _make_client(self) -> SplashifyClient:
        try:
            connection = self.get_connection(self.splashify_conn_id)
        except (ValueError, RecursionError) as error:  # Airflow 2 reads Extra at once
            raise SplashifyConfigurationError(
                f"Connection {self.splashify_conn_id!r} can't be read ({redact(error)}). Nothing was sent.\n"
                "Correct its Extra."
            ) from None
        if key := str(connection.password or "").strip():
            mask_secret(key)
        settings = settings_from_connection(connection, self._arguments, self.log.warning)
        if password := urlsplit(settings.budget.storage).password:
            mask_secret(password)
        return SplashifyClient(settings, sleep=self._sleep or time.sleep, warn=self.log.warning)
