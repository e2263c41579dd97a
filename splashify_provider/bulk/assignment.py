"""One row of a batch: checked, and what became of it."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from splashify_provider.agent_email import validate_agent_email
from splashify_provider.exceptions import (
    InvalidAgentEmailError,
    InvalidPhoneNumberError,
    Outcome,
    SplashifyError,
)
from splashify_provider.redaction import redact, safe_str

if TYPE_CHECKING:
    from splashify_provider.client import SplashifyClient


@dataclass(frozen=True, slots=True)
class Assignment:
    """A row that has been checked and may be sent: its position from 1, the number in the API's form, the agent."""

    position: int
    user_phone_number: str = field(repr=False)
    agent_email: str

    def ended(
        self,
        outcome: Outcome,
        message: str,
        error: SplashifyError | None = None,
        stopped_by: SplashifyError | None = None,
    ) -> AssignmentOutcome:
        """Return what has become of it; see :class:`AssignmentOutcome`."""
        return AssignmentOutcome(
            self.position, self.user_phone_number, self.agent_email, outcome, message, error, stopped_by
        )


@dataclass(frozen=True, slots=True)
class AssignmentOutcome:
    """What became of one assignment.

    :param position: Its place in the list, counted from 1.
    :param user_phone_number: The number as it was sent, else as it was given. Not part of the repr.
    :param agent_email: Who was to have the conversation; as it was given, where it is not an address.
    :param outcome: ``assigned``, ``conversation_not_found``, ``agent_not_found``, ``agent_inactive``, ``rejected``
        (any other permanent error), ``invalid`` (nothing was sent), ``failed`` (a transient error that outlasted the
        attempts) or ``not_attempted`` (the batch was stopped before).
    :param message: Splashify's words if it was assigned, else what happened and, on a second line, what to do about it.
    :param error: The error behind any other outcome.
    :param stopped_by: Why the batch was stopped: on the outcome that stopped it, and on those it left out.
    """

    position: int
    user_phone_number: str = field(repr=False)
    agent_email: str
    outcome: Outcome
    message: str
    error: SplashifyError | None = field(default=None, repr=False)
    stopped_by: SplashifyError | None = field(default=None, repr=False)


def check_row(client: SplashifyClient, position: int, row: object) -> Assignment | AssignmentOutcome:
    """Return what can be sent of a row with ``user_phone_number`` and ``agent_email``, or the outcome ``invalid``."""
    if not isinstance(row, Mapping):
        text = f"It is {type(row).__name__}, not a mapping with user_phone_number and agent_email. Nothing was sent."
        return AssignmentOutcome(position, "", "", "invalid", text, InvalidPhoneNumberError(text))
    phone, email = row.get("user_phone_number"), row.get("agent_email")
    try:
        number = client.normalize_phone_number(phone)
        return Assignment(position, number, sys.intern(validate_agent_email(email, number)))  # many rows, few agents
    except (InvalidPhoneNumberError, InvalidAgentEmailError) as error:
        given = "" if phone is None else safe_str(phone)
        agent = "" if email is None else redact(email)
        # Without its frames, whose variables hold the number, and which would take memory for each row.
        return AssignmentOutcome(position, given, agent, "invalid", error.message, error.with_traceback(None))


def reworded(error: SplashifyError, reason: str, remedy: str | None = None) -> SplashifyError:
    """Return a copy of an error with another reason and, if it is given, another remedy."""
    copied = copy.copy(error)
    copied.message = "\n".join(filter(None, [reason, error.remedy if remedy is None else remedy]))
    return copied
