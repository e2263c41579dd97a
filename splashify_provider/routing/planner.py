"""Who gets whom, and why: as few moves as the roster and the limits allow, the same from the same rows."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from splashify_provider.exceptions import InvalidPhoneNumberError, RoutingError
from splashify_provider.redaction import mask_phone_number, quote
from splashify_provider.routing.plan import Decision, Plan, some
from splashify_provider.routing.policy import RoutingPolicy
from splashify_provider.routing.rendezvous import Agent, Group, hash_of
from splashify_provider.routing.rows import (
    convert,
    is_missing,
    optional_email_address,
    read_rows,
)
from splashify_provider.routing.shifts import aware, shifts_on_duty

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from splashify_provider.routing.policy import Step
    from splashify_provider.routing.shifts import Shift, WeeklyShift


@dataclass(frozen=True)
class Conversation:
    """One open conversation, as the table it comes from knows it.

    :param user_phone_number: The customer's number, in any notation.
    :param agent_email: Who holds it now; None: nobody.
    :param owner_email: Who the customer belongs to in the CRM.
    :param language: The customer's language, as a tag (``en``, ``pt-BR``) or a name.
    :param backup_email: Who stands in for the owner.
    :raises RoutingError: If the number is missing, or one of the agents is no e-mail address.
    """

    user_phone_number: str = field(repr=False)
    agent_email: str | None = None
    owner_email: str | None = None
    language: str | None = None
    backup_email: str | None = None

    def __post_init__(self) -> None:
        convert(
            self,
            user_phone_number=_phone_number,
            agent_email=optional_email_address,
            owner_email=optional_email_address,
            language=_language,
            backup_email=optional_email_address,
        )


def plan_assignments(
    conversations: Iterable[Conversation | Mapping[str, Any]],
    shifts: Iterable[Shift | WeeklyShift | Mapping[str, Any]],
    *,
    at: datetime,
    policy: RoutingPolicy | None = None,
) -> Plan:
    """Decide who is to hold each open conversation.

    A pure function of what the rows say: neither their order, nor the machine, nor which of an earlier plan's moves
    have been made already changes who gets whom.

    :param conversations: The open conversations, or rows with their fields.
    :param shifts: The roster: shifts, weekly shifts, or rows with the fields of either. Who is on it twice at once has
        the larger capacity and all the languages.
    :param at: The moment that counts, an aware datetime.
    :param policy: What to try and what otherwise; the defaults of :class:`RoutingPolicy` unless given.
    :return: The plan.
    :raises RoutingError: Naming every bad row; or if nobody is on duty and the policy says ``"fail"``.
    """
    at = aware(at, "at")
    policy = policy or RoutingPolicy()
    duty = _agents(shifts_on_duty(shifts, at))
    chats = _chats(conversations, policy.default_region, duty)
    total = sum(Fraction(str(agent.weight)) for agent in duty.values())
    for agent in duty.values():
        fair_share = len(chats) * Fraction(str(agent.weight)) / total
        has_none = policy.slack is None or _same(agent.email, policy.used_fallback)
        agent.limit = len(chats) if has_none else math.ceil((1 + Fraction(str(policy.slack))) * fair_share)
    return _Routing(at, policy, duty).plan(chats)


@dataclass(eq=False, slots=True)
class _Chat:
    """A conversation, what it means on this roster, and whom it goes to."""

    conversation: Conversation
    phone: str
    number: int
    holder: Agent | None
    owner: Agent | None
    backup: Agent | None
    agent: Agent | None = None


class _Routing:
    """One plan in the making: step by step, and who finds no agent goes on to the next."""

    def __init__(self, at: datetime, policy: RoutingPolicy, duty: Mapping[str, Agent]) -> None:
        self._at, self._policy, self._duty = at, policy, duty
        self._everyone = Group(duty.values())
        self._alone = {agent: Group([agent]) for agent in duty.values()}
        self._speakers: dict[str, Group] = {}
        self._moves: list[tuple[str, Decision]] = []
        self._kept: list[tuple[str, Decision]] = []
        self._unassigned: list[tuple[str, Decision]] = []

    def plan(self, chats: list[_Chat]) -> Plan:
        waiting = sorted(chats, key=lambda chat: (chat.number, chat.phone))
        for tried, step in enumerate(self._policy.steps if self._duty else ()):
            self._take(step, waiting)
            for chat in waiting:
                if chat.agent:
                    self._assign(chat, chat.agent.email, self._why_not(chat, tried) + _why(chat, chat.agent, step))
            waiting = [chat for chat in waiting if chat.agent is None]
            if step == "language" and self._policy.nobody_for_language != "fall_through":
                self._give_up(
                    [chat for chat in waiting if chat.conversation.language], "nobody_for_language", tried + 1
                )
                waiting = [chat for chat in waiting if not chat.conversation.language]
        self._give_up(waiting, "nobody_on_duty", len(self._policy.steps))
        moves, kept, unassigned = (
            [decision for _, decision in sorted(decisions, key=lambda item: item[0])]
            for decisions in (self._moves, self._kept, self._unassigned)
        )
        releases = [each.user_phone_number for each in unassigned if each.from_agent and not each.agent_email]
        limits = {agent.email: agent.limit for agent in self._duty.values()}
        return Plan(self._at, limits, moves, kept, unassigned, releases)

    def _take(self, step: Step, waiting: list[_Chat]) -> None:
        """Give each conversation an agent from its group for this step, as far as there is room."""
        groups = [(chat, group) for chat in waiting if (group := self._group(step, chat))]
        if "current" in self._policy.steps:
            held: dict[Agent, list[_Chat]] = defaultdict(list)
            for chat, group in groups:
                if chat.holder in group.members:
                    held[chat.holder].append(chat)
            for agent, chats in held.items():
                if len(chats) > agent.room:
                    chats.sort(key=partial(self._claim, agent))
                for chat in chats[: agent.room]:
                    _give(chat, agent)
        for chat, group in groups:
            if chat.agent is None and (choice := group.first_choice(chat.number)):
                _give(chat, choice)

    def _claim(self, agent: Agent, chat: _Chat) -> tuple[bool, bool, bool, bool, int]:
        """Rank among those an agent holds and can't all keep: the smallest stay."""
        language, policy = chat.conversation.language, self._policy
        has_nobody_else = (
            policy.nobody_for_language != "fall_through"
            and "language" in policy.steps
            and (group := self._group("language", chat)) is not None
            and not group.members
        )
        speaks = language is not None and _speaks(agent, language)
        return not has_nobody_else, chat.owner is not agent, chat.backup is not agent, not speaks, chat.number

    def _group(self, step: Step, chat: _Chat) -> Group | None:
        """Say who comes into question for a conversation; None where the step doesn't apply to it."""
        if step == "everyone":
            return self._everyone
        if step == "language":
            language = chat.conversation.language
            if language is not None and language not in self._speakers:
                self._speakers[language] = Group(agent for agent in self._duty.values() if _speaks(agent, language))
            return self._speakers[language] if language is not None else None
        named = {"current": chat.holder, "owner": chat.owner, "backup": chat.backup}[step]
        return self._alone[named] if named else None

    def _assign(self, chat: _Chat, email: str, reason: str) -> None:
        before = _holder(chat)
        decisions = self._kept if _same(before, email) else self._moves
        decisions.append((chat.phone, Decision(chat.conversation.user_phone_number, before, email, reason)))

    def _give_up(
        self, chats: list[_Chat], option: Literal["nobody_on_duty", "nobody_for_language"], tried: int
    ) -> None:
        """Do with conversations that found no agent what the policy says."""
        action = getattr(self._policy, option)
        if chats and action == "fail":
            self._fail(chats, option, tried)
        for chat in chats:
            why, before = self._why_not(chat, tried), _holder(chat)
            if self._duty and option == "nobody_on_duty":
                why += f"no step of {', '.join(self._policy.steps)} found an agent; "
            if action == "fallback_agent":
                fallback = self._policy.fallback_agent or ""
                if on_duty := self._duty.get(fallback.casefold()):
                    _give(chat, on_duty)
                self._assign(chat, fallback, f"{why}{fallback} is the fallback")
                continue
            if action == "leave":
                after, what = before, f"left with {before}" if before else "left without an agent"
                if chat.holder:  # counts, and may be more than the limit: nobody else could take it
                    _give(chat, chat.holder)
            else:
                after, what = None, f"to be released from {before}" if before else "nothing to release"
            decision = Decision(chat.conversation.user_phone_number, before, after, why + what)
            self._unassigned.append((chat.phone, decision))

    def _fail(self, chats: list[_Chat], option: str, tried: int) -> NoReturn:
        others = f"or choose what else is to be done: {option} in the RoutingPolicy"
        if not self._duty:
            raise RoutingError(
                f"Nobody is on duty at {self._at:%Y-%m-%d %H:%M %Z} for {_count(chats)}. Add a shift to the roster, "
                f"{others}."
            )
        reasons: dict[str, list[str]] = defaultdict(list)
        for chat in chats:
            reasons[self._why_not(chat, tried)].append(mask_phone_number(chat.phone))
        raise RoutingError(
            f"No agent was found for {_count(chats)} at {self._at:%Y-%m-%d %H:%M %Z}. Add a shift of "
            f"somebody who can take them, {others}.",
            [f"{some(phones)}: {reason.rstrip('; ')}" for reason, phones in reasons.items()],
        )

    def _why_not(self, chat: _Chat, tried: int) -> str:
        """Say why those who would have come first don't, given how many steps were tried in vain."""
        if not self._duty:
            return "nobody is on duty; "
        conversation, steps = chat.conversation, self._policy.steps
        reasons: dict[str, None] = {}  # in order, and each once
        if conversation.agent_email is None:
            reasons["nobody held it"] = None
        elif chat.holder is None:
            reasons[f"{conversation.agent_email} is not on duty"] = None
        elif chat.holder is not chat.agent and "current" in steps:
            groups = (self._group(step, chat) for step in steps[: tried + (chat.agent is not None)])
            if any(group and chat.holder in group.members for group in groups):
                reasons[_is_full(chat.holder)] = None
        for step, email, agent in (
            ("owner", conversation.owner_email, chat.owner),
            ("backup", conversation.backup_email, chat.backup),
        ):
            if email and step in steps[:tried]:
                reasons[f"the {step} {_is_full(agent) if agent else f'{email} is not on duty'}"] = None
        if conversation.language and "language" in steps[:tried]:
            group = self._group("language", chat)
            reasons[
                f"everybody on duty who speaks {conversation.language} is at their limit"
                if group and group.members
                else f"nobody on duty speaks {conversation.language}"
            ] = None
        return "".join(f"{reason}; " for reason in reasons)


def _count(chats: list[_Chat]) -> str:
    return f"{len(chats):,} open conversation{'s' if len(chats) > 1 else ''}"


def _holder(chat: _Chat) -> str | None:
    return chat.holder.email if chat.holder else chat.conversation.agent_email  # as the roster spells it


def _same(email: str | None, other: str | None) -> bool:
    return email is not None and other is not None and email.casefold() == other.casefold()


def _give(chat: _Chat, agent: Agent) -> None:
    chat.agent = agent
    agent.load += 1


def _why(chat: _Chat, agent: Agent, step: Step) -> str:
    return (
        agent.email
        + {
            "current": " is on duty",
            "owner": " is on duty and owns the customer",
            "backup": " is on duty and stands in for the owner",
            "language": f" is on duty and speaks {chat.conversation.language}",
            "everyone": " is on duty",
        }[step]
    )


def _is_full(agent: Agent) -> str:
    return f"{agent.email} is at the limit of {agent.limit:,}"


def _agents(shifts: list[Shift]) -> dict[str, Agent]:
    """Merge the shifts of one moment into agents, by their address in small letters."""
    by_email: dict[str, list[Shift]] = defaultdict(list)
    for shift in shifts:
        by_email[shift.agent_email.casefold()].append(shift)
    return {
        key: Agent(
            own[0].agent_email,
            max(shift.capacity or 1 for shift in own),
            frozenset(language for shift in own for language in shift.languages),
        )
        for key, own in by_email.items()
    }


def _chats(
    rows: Iterable[Conversation | Mapping[str, Any]], region: str | None, duty: Mapping[str, Agent]
) -> list[_Chat]:
    """Read the conversations, one for each customer, and find the agents they name on duty."""
    first: dict[str, tuple[int, Conversation]] = {}
    problems = []
    for position, conversation in enumerate(read_rows(rows, lambda _: Conversation, (Conversation,), "conversations")):
        phone = _key(conversation.user_phone_number, region)
        earlier, same = first.setdefault(phone, (position, conversation))
        for name in ("agent_email", "owner_email", "backup_email", "language"):
            old, new = (str(getattr(each, name) or "(nobody)") for each in (same, conversation))
            if old.casefold() != new.casefold():
                problems.append(
                    f"conversations[{position}].{name} is {quote(new)}, but the same customer "
                    f"({mask_phone_number(phone)}) has {quote(old)} in conversations[{earlier}]"
                )
        first[phone] = earlier, min(same, conversation, key=_spelling)
    if problems:
        raise RoutingError("Rows contradict each other; nothing was planned:", problems)

    spelled: dict[str, str] = {}  # who is off duty is one agent too, however their address is typed
    for _, each in first.values():
        if each.agent_email:
            key = each.agent_email.casefold()
            spelled[key] = min(each.agent_email, spelled.get(key, each.agent_email))

    def named(email: str | None) -> Agent | None:
        return duty.get(email.casefold()) if email else None

    for phone, (position, each) in first.items():
        if each.agent_email and (spelling := spelled[each.agent_email.casefold()]) != each.agent_email:
            first[phone] = position, replace(each, agent_email=spelling)
    return [
        _Chat(each, phone, hash_of(phone), named(each.agent_email), named(each.owner_email), named(each.backup_email))
        for phone, (_, each) in first.items()
    ]


def _spelling(conversation: Conversation) -> tuple[str, ...]:
    return tuple(str(value or "") for value in vars(conversation).values())


def _key(phone_number: str, region: str | None) -> str:
    """Give one key to all notations of a number.

    Whether it may be sent is judged where it is sent, with the connection's region: one bad number in a table is no
    reason to leave everybody else without an agent.
    """
    from splashify_provider.phone_numbers import normalize_phone_number  # slow to load

    try:
        return normalize_phone_number(phone_number, region)
    except InvalidPhoneNumberError:
        return "?" + "".join(char for char in phone_number if char.isdigit())  # may be somebody else's digits


def _speaks(agent: Agent, language: str) -> bool:
    """Tell whether one of an agent's languages is this one: pt is pt-BR as well, pt-PT is not."""
    wanted = _subtags(language)
    return any(all(a == b for a, b in zip(wanted, _subtags(own), strict=False)) for own in agent.languages)


def _subtags(language: str) -> list[str]:
    return language.casefold().replace("_", "-").split("-")


def _language(value: object) -> str | None:
    return None if is_missing(value) else quote(value)


def _phone_number(value: object) -> str:
    if is_missing(value):
        raise ValueError("is missing")
    if not isinstance(value, (str, Real, Decimal)) or isinstance(value, bool):
        raise ValueError("is neither text nor a number")
    if not any(char.isdigit() for char in str(value)):
        raise ValueError("has no digits")
    return str(value)  # as it is, so that whoever gave it finds it again
