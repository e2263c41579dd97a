"""What routing may do: the steps that find an agent, and what becomes of a conversation that finds none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from splashify_provider.redaction import redact
from splashify_provider.routing.fields import optional_email_address, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator

Step = Literal["current", "owner", "backup", "language", "everyone"]
Otherwise = Literal["fail", "leave", "release", "fallback_agent"]


@dataclass(frozen=True)
class RoutingPolicy:
    """How conversations find agents.

    :param nobody_on_duty: What becomes of conversations that no step finds an agent for: ``"fail"`` (no plan),
        ``"leave"`` them as they are, ``"release"`` them to the unassigned, or give them to the ``"fallback_agent"``.
    :param fallback_agent: The e-mail address for ``"fallback_agent"``, on duty or not, without a limit.
    :param no_speaker: The same where nobody on duty, below the limit, speaks the customer's language; or
        ``"fall_through"`` to the steps after it.
    :param steps: The steps to try, in this order. ``"current"``: whoever holds the conversation keeps it, and also goes
        first in the other steps. ``"owner"`` and ``"backup"``: the agents named by the conversation. ``"language"``:
        those who speak the customer's. ``"everyone"`` on duty. Leave out what is not wanted.
    :param headroom: How far above a fair share an agent may be loaded: 0.25 for at most a quarter more, rounded up.
        None for no limit.
    :raises RoutingError: If these make no sense together.
    """

    nobody_on_duty: Otherwise = "fail"
    fallback_agent: str | None = None
    no_speaker: Otherwise | Literal["fall_through"] = "fall_through"
    steps: tuple[Step, ...] = get_args(Step)
    headroom: float | None = 0.25

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps) if isinstance(self.steps, (tuple, list)) else ())
        problems = [*self._problems_of_fallback(), *self._problems_of_steps()]
        if not (self.headroom is None or (isinstance(self.headroom, (int, float)) and 0 <= self.headroom < math.inf)):
            problems.append(f"headroom must be 0 or more, or None, not {redact(self.headroom)!r}")
        if problems:
            refuse("this RoutingPolicy", problems)

    def _problems_of_fallback(self) -> Iterator[str]:
        try:
            object.__setattr__(self, "fallback_agent", optional_email_address(self.fallback_agent))
        except ValueError as error:
            yield f"fallback_agent {error}"
        for name, more in (("nobody_on_duty", ()), ("no_speaker", ("fall_through",))):
            choices, chosen = get_args(Otherwise) + more, getattr(self, name)
            if chosen not in choices:
                yield f"{name} must be one of {', '.join(choices)}, not {redact(chosen)!r}"
            elif chosen == "fallback_agent" and not self.fallback_agent:
                yield f"{name}='fallback_agent' needs fallback_agent, an e-mail address"

    def _problems_of_steps(self) -> Iterator[str]:
        known = get_args(Step)
        if not self.steps or len({step for step in known if step in self.steps}) < len(self.steps):
            yield f"steps must be a tuple of some of {', '.join(known)}, each once"
        elif self.no_speaker != "fall_through" and "language" not in self.steps:
            yield "no_speaker says what to do after the step 'language', which steps leaves out"

    @property
    def used_fallback(self) -> str | None:
        """The fallback agent, where the policy has a use for one."""
        return self.fallback_agent if "fallback_agent" in (self.nobody_on_duty, self.no_speaker) else None
