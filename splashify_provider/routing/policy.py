"""What routing may do: the steps that find an agent, and what becomes of a conversation that finds none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from splashify_provider.exceptions import RoutingError
from splashify_provider.routing.rows import email_address

Step = Literal["current", "owner", "backup", "language", "everyone"]
Otherwise = Literal["fail", "leave", "release", "fallback_agent"]


@dataclass(frozen=True)
class RoutingPolicy:
    """How conversations find agents.

    :param nobody_on_duty: What becomes of conversations that no step finds an agent for: ``"fail"`` (no plan),
        ``"leave"`` them as they are, ``"release"`` them to the unassigned, or give them to the ``"fallback_agent"``.
    :param fallback_agent: The e-mail address for ``"fallback_agent"``, on duty or not, without a limit.
    :param nobody_for_language: The same where nobody on duty, below the limit, speaks the customer's language; or
        ``"fall_through"`` to the steps after it.
    :param steps: What is tried, in this order. ``"current"``: whoever holds the conversation keeps it, and also goes
        first in the other steps. ``"owner"`` and ``"backup"``: the agents named by the conversation. ``"language"``:
        those who speak the customer's. ``"everyone"`` on duty. Leave out what is not wanted.
    :param slack: How far above a fair share an agent may be loaded: 0.25 for at most a quarter more, rounded up.
        None for no limit.
    :param default_region: As of the connection, to see that two notations are one national number ("IN").
    :raises RoutingError: If these make no sense together.
    """

    nobody_on_duty: Otherwise = "fail"
    fallback_agent: str | None = None
    nobody_for_language: Otherwise | Literal["fall_through"] = "fall_through"
    steps: tuple[Step, ...] = get_args(Step)
    slack: float | None = 0.25
    default_region: str | None = None

    def __post_init__(self) -> None:
        problems = []
        for name, allowed in (("nobody_on_duty", ()), ("nobody_for_language", ("fall_through",))):
            if getattr(self, name) not in (choices := get_args(Otherwise) + allowed):
                problems.append(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
            if getattr(self, name) == "fallback_agent" and not self.fallback_agent:
                problems.append(f"{name}='fallback_agent' needs fallback_agent, an e-mail address")
        steps = tuple(self.steps) if isinstance(self.steps, (tuple, list)) else ()
        if not steps or len({*map(str, steps)} & {*get_args(Step)}) < len(steps):
            problems.append(f"steps must be a tuple of some of {get_args(Step)}, each once, not {self.steps!r}")
        elif self.nobody_for_language != "fall_through" and "language" not in steps:
            problems.append("nobody_for_language says what to do after the step 'language', which steps leaves out")
        object.__setattr__(self, "steps", steps)
        if not (self.slack is None or (isinstance(self.slack, (int, float)) and 0 <= self.slack < math.inf)):
            problems.append(f"slack must be 0 or more, or None, not {self.slack!r}")
        if self.fallback_agent is not None:
            try:
                object.__setattr__(self, "fallback_agent", email_address(self.fallback_agent))
            except ValueError as error:
                problems.append(f"fallback_agent {error}")
        if self.default_region is not None:
            from phonenumbers import SUPPORTED_REGIONS  # slow to load

            if str(self.default_region).upper() not in SUPPORTED_REGIONS:
                problems.append(f"default_region must be two letters such as IN or US, not {self.default_region!r}")
        if problems:
            raise RoutingError("This RoutingPolicy can't be used:", problems)

    @property
    def used_fallback(self) -> str | None:
        """The fallback agent, where the policy has a use for one."""
        return self.fallback_agent if "fallback_agent" in (self.nobody_on_duty, self.nobody_for_language) else None
