"""What a plan says: moves, what is kept, and what no agent was found for, with counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from splashify_provider.routing.plan_text import as_markdown, as_table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, tzinfo


@dataclass(frozen=True)
class Decision:
    """What a plan says about one conversation.

    :param user_phone_number: The customer's number, as it was given. Not part of the repr.
    :param from_agent: Who holds it now; None: nobody.
    :param agent_email: Who holds it once the plan is carried out; None: nobody.
    :param reason: Why, in words.
    :param fallback_agents: Of a move: who is next in line, in order, where that agent turns out not to take chats.
    """

    user_phone_number: str = field(repr=False)
    from_agent: str | None
    agent_email: str | None
    reason: str
    fallback_agents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """How conversations are assigned at one moment. The order of its lists doesn't depend on that of the rows.

    :param at: The moment, in UTC.
    :param limits: How many conversations each agent on duty may hold.
    :param moves: What has to be assigned.
    :param kept: What stays where it is, with somebody who is to hold it.
    :param unassigned: What no agent was found for: left as it is, or to be released.
    :param releases: Numbers to release, as they were given.
    :param unavailable: Who was on duty and left out, with the reason as it follows their address.
    :param timezone: The one zone that the roster's weekly shifts share; None if there are several or none.
    """

    at: datetime
    limits: Mapping[str, int]
    moves: list[Decision]
    kept: list[Decision]
    unassigned: list[Decision]
    releases: list[str] = field(repr=False)
    unavailable: Mapping[str, str] = field(default_factory=dict)
    timezone: tzinfo | None = None

    def to_assignments(self) -> list[dict[str, str]]:
        """Return the moves as arguments of the assign operators.

        :return: ``user_phone_number`` and ``agent_email`` of each, for ``expand_kwargs`` or in bulk.
        """
        return [
            {"user_phone_number": move.user_phone_number, "agent_email": move.agent_email}
            for move in self.moves
            if move.agent_email  # all have one; says so to the type checker
        ]

    def summary(self) -> dict[str, Any]:
        """Return what the plan does, counted, in JSON's types.

        :return: ``at``; how many are ``kept``, ``moves``, ``unassigned`` and ``releases``; who was left out as
            ``unavailable``, with the reason; and by agent how many conversations they hold ``before`` and ``after``,
            and their ``limit`` (None: not on duty). Under ``nobody``, the same of those without an agent.
        """
        decisions = [*self.kept, *self.moves, *self.unassigned]
        before = Counter(decision.from_agent for decision in decisions)
        after = Counter(decision.agent_email for decision in decisions)
        agents = sorted({agent for agent in (*before, *after, *self.limits) if agent}, key=str.casefold)
        return {
            "at": self.at.isoformat(),
            "kept": len(self.kept),
            "moves": len(self.moves),
            "unassigned": len(self.unassigned),
            "releases": len(self.releases),
            "unavailable": dict(self.unavailable),
            "agents": {
                agent: {"before": before[agent], "after": after[agent], "limit": self.limits.get(agent)}
                for agent in agents
            },
            "nobody": {"before": before[None], "after": after[None]},
        }

    def table(self, timezone: tzinfo | None = None) -> str:
        """Return the plan as text for a log: who holds how many, then what is kept and what moves, and why.

        :param timezone: The zone that the moment is shown in; unless given, the plan's, or else UTC.
        :return: Lines of text; of phone numbers the last four digits, and at most five of a kind. Where there are more
            than 100 kinds of moves, the largest.
        """
        return as_table(self, timezone)

    def markdown(self, timezone: tzinfo | None = None) -> str:
        """Return the plan as Markdown, for whoever approves it: who is left out, who holds how many, and what moves.

        :param timezone: The zone that the moment is shown in; unless given, the plan's, or else UTC.
        :return: Tables in GitHub's Markdown; of phone numbers the last four digits, and at most five of a kind. Where
            there are more than 30 kinds of moves, the largest. Text from outside is never taken for Markdown.
        """
        return as_markdown(self, timezone)
