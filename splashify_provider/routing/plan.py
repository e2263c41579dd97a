"""What a plan says: moves, what is kept, and what no agent was found for, with counts and a table to read."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from splashify_provider.redaction import mask_phone_number

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

_MOST_ROWS = 100


@dataclass(frozen=True)
class Decision:
    """What a plan says about one conversation.

    :param user_phone_number: The customer's number, as it was given. Not part of the repr.
    :param from_agent: Who holds it now; None: nobody.
    :param agent_email: Who holds it once the plan is carried out; None: nobody.
    :param reason: Why, in words.
    """

    user_phone_number: str = field(repr=False)
    from_agent: str | None
    agent_email: str | None
    reason: str


@dataclass(frozen=True)
class Plan:
    """How conversations are assigned at one moment. The order of its lists doesn't depend on that of the rows.

    :param at: The moment, in UTC.
    :param limits: How many conversations each agent on duty may hold.
    :param moves: What has to be assigned.
    :param kept: What stays where it is, with somebody who is to hold it.
    :param unassigned: What no agent was found for: left as it is, or to be released.
    :param releases: Numbers to release, as they were given.
    """

    at: datetime
    limits: Mapping[str, int]
    moves: list[Decision]
    kept: list[Decision]
    unassigned: list[Decision]
    releases: list[str] = field(repr=False)

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

        :return: ``at``; how many are ``kept``, ``moves``, ``unassigned`` and ``releases``; and by agent how many
            conversations they hold ``before`` and ``after``, and their ``limit`` (None: not on duty). Under
            ``nobody``, the same of those without an agent.
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
            "agents": {
                agent: {"before": before[agent], "after": after[agent], "limit": self.limits.get(agent)}
                for agent in agents
            },
            "nobody": {"before": before[None], "after": after[None]},
        }

    def table(self) -> str:
        """Return the plan as text for a log: who holds how many, then what is kept and what moves, and why.

        :return: Lines of text; of phone numbers the last four digits, and at most five of a kind. Where there are more
            than 100 kinds of moves, the largest.
        """
        summary = self.summary()
        holders = {**summary["agents"], "(nobody)": {**summary["nobody"], "limit": None}}
        counts = [
            (name, count["before"], count["after"], "off duty" if count["limit"] is None else count["limit"])
            for name, count in holders.items()
            if name != "(nobody)" or count["before"] or count["after"]
        ]
        counts = [(*row[:3], "") if row[0] == "(nobody)" else row for row in counts]
        without = sum(each.agent_email not in self.limits for each in (*self.kept, *self.moves, *self.unassigned))
        title = (
            f"At {self.at:%Y-%m-%d %H:%M %Z}: {len(self.kept)} kept, {len(self.moves)} moved, "
            f"{without} without an agent on duty"
        )
        text = [title, "", *_columns([("agent", "before", "after", "limit"), *counts])]
        for name, decisions in (("kept", self.kept), ("moved", self.moves), ("left", self.unassigned)):
            groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
            for decision in decisions:
                route = (decision.from_agent or "(nobody)", decision.agent_email or "(nobody)", decision.reason)
                groups[route].append(mask_phone_number(decision.user_phone_number))
            shown = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))[:_MOST_ROWS]
            rows: list[tuple[object, ...]] = [
                (name, len(phones), old if old == new else f"{old} → {new}", why, first_few(phones))
                for (old, new, why), phones in sorted(shown)
            ]
            if more := len(decisions) - sum(len(phones) for _, phones in shown):
                rows.append((name, more, "others", f"in {len(groups) - len(shown):,} more groups like these", ""))
            if rows:
                text += ["", *_columns([("", "", "agent", "why", "customers"), *rows])]
        return "\n".join(text)


def _columns(rows: list[tuple[object, ...]]) -> list[str]:
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if isinstance(raw, int) else cell.ljust(width)
            for cell, raw, width in zip(line, row, widths, strict=True)
        ).rstrip()
        for line, row in zip(cells, rows, strict=True)
    ]


def first_few(phones: list[str]) -> str:
    """Return the first few of many phone numbers.

    :param phones: Masked numbers.
    :return: Up to five, and how many more there are.
    """
    return ", ".join(phones[:5]) + (f" and {len(phones) - 5} more" if len(phones) > 5 else "")
