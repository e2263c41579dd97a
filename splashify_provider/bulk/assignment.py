"""One row of a batch: checked, and what became of it."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from splashify_provider.agent_email import validate_agent_email, validate_fallback_agents
from splashify_provider.exceptions import (
    AgentInactiveError,
    AgentNotFoundError,
    InvalidAgentEmailError,
    InvalidPhoneNumberError,
    Outcome,
    SplashifyError,
)
from splashify_provider.redaction import mask_phone_number, plural, redact, safe_str

if TYPE_CHECKING:
    from collections.abc import Sequence

    from splashify_provider.client import SplashifyClient


AGENT_REFUSED = (AgentNotFoundError, AgentInactiveError)
"""What Splashify answers where it refuses the agent, whoever the customer is."""

_NOBODY: Mapping[str, SplashifyError] = {}  # one for all, of which there may be many


@dataclass(frozen=True, slots=True)
class Assignment:
    """A row that has been checked and may be sent.

    :param position: Its place, counted from 1.
    :param user_phone_number: The number in the API's form. Not part of the repr.
    :param agent_email: Who is to have the conversation; None where it is to be released.
    :param fallback_agents: Who is next in line where Splashify refuses that agent.
    """

    position: int
    user_phone_number: str = field(repr=False)
    agent_email: str | None
    fallback_agents: tuple[str, ...] = ()

    @property
    def agents(self) -> tuple[str | None, ...]:
        """All who may have it, in order."""
        return self.agent_email, *self.fallback_agents

    def ended(
        self,
        outcome: Outcome,
        message: str,
        error: SplashifyError | None = None,
        stopped_by: SplashifyError | None = None,
        refused: Mapping[str, SplashifyError] = _NOBODY,
    ) -> AssignmentOutcome:
        """Return what has become of it; see :class:`AssignmentOutcome`."""
        agents = self.agents
        agent = agents[min(len(refused), len(agents) - 1)]
        return AssignmentOutcome(
            self.position, self.user_phone_number, agent, outcome, message, error, stopped_by, refused
        )


@dataclass(frozen=True, slots=True)
class AssignmentOutcome:
    """What became of one assignment, or of one release.

    :param position: Its place in the list, counted from 1.
    :param user_phone_number: The number as it was sent, else as it was given. Not part of the repr.
    :param agent_email: Who has the conversation, or was the last to be asked; as it was given, where it is not an
        address; None for a release.
    :param outcome: ``assigned``, ``released``, ``conversation_not_found``, ``agent_not_found``, ``agent_inactive``,
        ``rejected`` (any other permanent error), ``invalid`` (nothing was sent), ``failed`` (a transient error that
        outlasted the attempts) or ``not_attempted`` (the batch was stopped before).
    :param message: Splashify's words if it was done, else what happened and, on a second line, what to do about it.
    :param error: The error behind any other outcome.
    :param stopped_by: Why the batch was stopped: on the outcome that stopped it, and on those it left out.
    :param refused: Who of its agents was refused, in order, and the error of each.
    """

    position: int
    user_phone_number: str = field(repr=False)
    agent_email: str | None
    outcome: Outcome
    message: str
    error: SplashifyError | None = field(default=None, repr=False)
    stopped_by: SplashifyError | None = field(default=None, repr=False)
    refused: Mapping[str, SplashifyError] = field(default_factory=lambda: _NOBODY, repr=False)


def check_row(
    client: SplashifyClient, position: int, row: object, *, with_fallbacks: bool = True
) -> Assignment | AssignmentOutcome:
    """Return what can be sent of a row with ``user_phone_number`` and ``agent_email``, or the outcome ``invalid``."""
    if not isinstance(row, Mapping):
        text = f"It is {type(row).__name__}, not a mapping with user_phone_number and agent_email. Nothing was sent."
        return AssignmentOutcome(position, "", "", "invalid", text, InvalidPhoneNumberError(text))
    phone, email = row.get("user_phone_number"), row.get("agent_email")
    try:
        number = client.normalize_phone_number(phone)
        agent = sys.intern(validate_agent_email(email, number))  # many rows, few agents
        fallbacks = validate_fallback_agents(row.get("fallback_agents"), agent, number) if with_fallbacks else ()
        return Assignment(position, number, agent, _interned(fallbacks))
    except (InvalidPhoneNumberError, InvalidAgentEmailError) as error:
        return _invalid(position, phone, "" if email is None else redact(email), error)


def check_release(client: SplashifyClient, position: int, row: object) -> Assignment | AssignmentOutcome:
    """Return a release of a number, or of a row with ``user_phone_number``; or the outcome ``invalid``."""
    phone = row.get("user_phone_number") if isinstance(row, Mapping) else row
    try:
        return Assignment(position, client.normalize_phone_number(phone), None)
    except InvalidPhoneNumberError as error:
        return _invalid(position, phone, None, error)


def _invalid(position: int, phone: object, agent: str | None, error: SplashifyError) -> AssignmentOutcome:
    given = "" if phone is None else safe_str(phone)
    # Without its frames, whose variables hold the number, and which would take memory for each row.
    return AssignmentOutcome(position, given, agent, "invalid", error.message, error.with_traceback(None))


@lru_cache(maxsize=4096)
def _interned(agents: tuple[str, ...]) -> tuple[str, ...]:
    """Return the same tuple for equal ones: many rows, few lines of agents."""
    return tuple(map(sys.intern, agents))


def label_of(moves: Sequence[Any], releases: Sequence[Any]) -> str:
    """Say in a few words what a batch is to do: of a single number what becomes of it, else how many there are."""
    if len(moves) + len(releases) != 1:
        counted = [(moves, "move"), (releases, "release")]
        return ", ".join(plural(len(rows), noun) for rows, noun in counted if rows) or "nothing"
    row = (*moves, *releases)[0]
    phone = row.get("user_phone_number") if isinstance(row, Mapping) else row
    number = mask_phone_number(safe_str(phone))
    if releases:
        return f"{number} released"
    return f"{number} → {redact(row.get('agent_email') if isinstance(row, Mapping) else None)}"


def all_refused(errors: Sequence[SplashifyError]) -> SplashifyError:
    """Return the error of a conversation whose agents Splashify has all refused: it names every one of them.

    :param errors: What was answered for each, in order; at least one.
    """
    *others, last = errors
    reasons = [error.reason.partition(";")[0] + "." for error in others]
    remedies = dict.fromkeys(error.remedy for error in errors)
    return reworded(last, " ".join([*reasons, last.reason]), " ".join(filter(None, remedies)))


def reworded(error: SplashifyError, reason: str, remedy: str | None = None) -> SplashifyError:
    """Return a copy of an error with another reason and, if it is given, another remedy."""
    copied = copy.copy(error)
    copied.message = "\n".join(filter(None, [reason, error.remedy if remedy is None else remedy]))
    return copied
