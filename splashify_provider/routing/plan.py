"""What a plan says: moves, what is kept, and what no agent was found for; counted, as text and as Markdown."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import timezone as fixed_zone
from typing import TYPE_CHECKING, Any, NamedTuple

from splashify_provider.redaction import mask_phone_number, plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime, tzinfo

_NOBODY = "(nobody)"
_MOST_ROWS, _MOST_ROWS_IN_MARKDOWN = 100, 30
# What no address has: a backslash before a bar would undo the bar's, and the others are for readers that know no code.
_HARMLESS = str.maketrans("\\<>[]", "/‹›()")
_PLAIN_WORD = re.compile(r"…?[^\W_]+(?:[',-][^\W_]+)*[.,;:]?")


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
        return _as_table(self, timezone)

    def markdown(self, timezone: tzinfo | None = None) -> str:
        """Return the plan as Markdown, for whoever approves it: who is left out, who holds how many, and what moves.

        :param timezone: The zone that the moment is shown in; unless given, the plan's, or else UTC.
        :return: Tables in GitHub's Markdown; of phone numbers the last four digits, and at most five of a kind. Where
            there are more than 30 kinds of moves, the largest. Text from outside is never taken for Markdown.
        """
        return _as_markdown(self, timezone)


class _Row(NamedTuple):
    """Decisions that differ in the customer only."""

    before: str
    after: str
    reason: str
    phones: list[str]


def _as_table(plan: Plan, timezone: tzinfo | None) -> str:
    title = (
        f"At {_moment(plan, timezone)}: {len(plan.kept)} kept, {len(plan.moves)} to move, "
        f"{_without_agent(plan)} without an agent on duty"
    )
    left_out = [f"left out: {agent} ({reason})" for agent, reason in plan.unavailable.items()]
    text = [title, *left_out, "", *_columns([("agent", "before", "after", "limit"), *_agents(plan)])]
    for name, decisions in (("kept", plan.kept), ("moved", plan.moves), ("left", plan.unassigned)):
        groups, others = _groups(decisions, _MOST_ROWS)
        rows: list[Sequence[object]] = [
            (name, len(row.phones), _route(row.before, row.after), row.reason, first_few(row.phones)) for row in groups
        ]
        if others:
            count = sum(len(row.phones) for row in others)
            rows.append((name, count, "others", f"in {len(others):,} more groups like these", ""))
        if rows:
            text += ["", *_columns([("", "", "agent", "why", "customers"), *rows])]
    return "\n".join(text)


def _as_markdown(plan: Plan, timezone: tzinfo | None) -> str:
    title = (
        f"### Plan for {_moment(plan, timezone)}: {plural(len(plan.kept), 'conversation')} kept, "
        f"{len(plan.moves):,} to move, {_without_agent(plan):,} without an agent on duty"
    )
    left_out = [(_literal(agent), _literal(reason)) for agent, reason in plan.unavailable.items()]
    agents = [(_literal(agent), *counts) for agent, *counts in _agents(plan)]
    text = [
        title,
        *_markdown_table(("left out", "why"), left_out),
        *_markdown_table(("agent", "before", "after", "limit"), agents),
    ]
    for name, decisions in (("moved", plan.moves), ("left or released", plan.unassigned)):
        groups, others = _groups(decisions, _MOST_ROWS_IN_MARKDOWN)
        rows = [
            (len(row.phones), _literal(row.before), _literal(row.after), _literal(row.reason), first_few(row.phones))
            for row in groups
        ]
        text += _markdown_table((name, "from", "to", "why", "customers"), rows)
        if others:
            count = sum(len(row.phones) for row in others)
            text += ["", f"And {plural(count, 'conversation')} in {len(others):,} more groups like these."]
    return "\n".join(text)


def first_few(texts: list[str]) -> str:
    """Return the first few of many texts, such as masked phone numbers.

    :param texts: The texts.
    :return: Up to five, and how many more there are.
    """
    return ", ".join(texts[:5]) + (f" and {len(texts) - 5} more" if len(texts) > 5 else "")


def _moment(plan: Plan, timezone: tzinfo | None) -> str:
    return f"{plan.at.astimezone(timezone or plan.timezone or fixed_zone.utc):%Y-%m-%d %H:%M %Z}"


def _without_agent(plan: Plan) -> int:
    return sum(each.agent_email not in plan.limits for each in (*plan.kept, *plan.moves, *plan.unassigned))


def _agents(plan: Plan) -> list[tuple[str, int, int, int | str]]:
    """Return who holds how many before and after, and their limit or why they have none."""
    summary = plan.summary()
    left_out = {agent.casefold() for agent in plan.unavailable}
    rows = []
    for agent, count in summary["agents"].items():
        limit = count["limit"]
        if limit is None:
            limit = "left out" if agent.casefold() in left_out else "off duty"
        rows.append((agent, count["before"], count["after"], limit))
    if any((nobody := summary["nobody"]).values()):
        rows.append((_NOBODY, nobody["before"], nobody["after"], ""))
    return rows


def _groups(decisions: Iterable[Decision], most: int) -> tuple[list[_Row], list[_Row]]:
    """Return the largest groups of decisions that differ in the customer only, sorted, and the other groups."""
    phones: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for each in decisions:
        route = each.from_agent or _NOBODY, each.agent_email or _NOBODY, each.reason
        phones[route].append(mask_phone_number(each.user_phone_number))
    rows = sorted((_Row(*route, group) for route, group in phones.items()), key=lambda row: (-len(row.phones), row))
    return sorted(rows[:most]), rows[most:]


def _route(before: str, after: str) -> str:
    return before if before == after else f"{before} → {after}"


def _columns(rows: list[Sequence[object]]) -> list[str]:
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if isinstance(raw, int) else cell.ljust(width)
            for cell, raw, width in zip(line, row, widths, strict=True)
        ).rstrip()
        for line, row in zip(cells, rows, strict=True)
    ]


def _markdown_table(names: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a table, and an empty one before it; none where there are no rows."""
    if not rows:
        return []
    columns = zip(*rows, strict=True)
    rule = ["---:" if any(isinstance(cell, int) for cell in column) else "---" for column in columns]
    lines = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in (names, rule, *rows)]
    return ["", *(f"| {' | '.join(line)} |" for line in lines)]


def _literal(text: str) -> str:
    """Return text for a cell of a Markdown table, where it is shown as it is, or nearly so.

    Whatever is more than a plain word, an address for one, stands between backticks. Escaping it would not be enough:
    GitHub's Markdown makes links of addresses even then.
    """
    return " ".join(word if word == _NOBODY or _PLAIN_WORD.fullmatch(word) else _code(word) for word in text.split())


def _code(word: str) -> str:
    word = word.translate(_HARMLESS).replace("|", "\\|")  # a bar needs its backslash in code, too
    fence = "`" * (max(map(len, re.findall("`+", word)), default=0) + 1)
    blank = " " if word.startswith("`") or word.endswith("`") else ""
    return f"{fence}{blank}{word}{blank}{fence}"
