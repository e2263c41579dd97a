"""How conversations are assigned: as few moves as the roster and the limits allow, the same from the same rows."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from splashify_provider.agent_email import MOST_FALLBACK_AGENTS
from splashify_provider.exceptions import RoutingError
from splashify_provider.redaction import mask_phone_number, plural, redact
from splashify_provider.routing.conversations import read_chats
from splashify_provider.routing.fields import email_address, is_missing, refuse
from splashify_provider.routing.plan import Decision, Plan, first_few
from splashify_provider.routing.policy import RoutingPolicy
from splashify_provider.routing.reasons import why, why_not
from splashify_provider.routing.rendezvous import Agent, Group
from splashify_provider.routing.shifts import aware, read_shifts, shared_zone, shifts_on_duty

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from splashify_provider.routing.conversations import Chat, Conversation
    from splashify_provider.routing.policy import Step
    from splashify_provider.routing.shifts import Shift, WeeklyShift


def plan_assignments(
    conversations: Iterable[Conversation | Mapping[str, Any]],
    shifts: Iterable[Shift | WeeklyShift | Mapping[str, Any]],
    *,
    at: datetime,
    policy: RoutingPolicy | None = None,
    default_region: str | None = None,
    unavailable: Mapping[str, str] | None = None,
) -> Plan:
    """Return a plan of who is to hold each open conversation.

    A pure function of what the rows say: neither their order, nor the machine, nor which of an earlier plan's moves
    have been made already changes who gets whom.

    :param conversations: The open conversations, or rows with their fields.
    :param shifts: The roster: shifts, weekly shifts, or rows with the fields of either. Who is on it twice at once has
        the larger capacity and all the languages.
    :param at: The moment that counts, an aware datetime, the standard library's or pendulum's.
    :param policy: The steps to try, and what to do when they find nobody; the defaults of :class:`RoutingPolicy`
        unless given.
    :param default_region: The connection's ("IN"), to see that a national and an international notation are one
        customer's number.
    :param unavailable: Agents who can't take chats, on duty or not, with the reason as it follows their address:
        "is inactive in Splashify". They count as not on duty.
    :return: The plan.
    :raises RoutingError: Naming every bad row by position (1 is the first); if nobody is on duty and the policy says
        ``"fail"``; or if the fallback agent is needed and unavailable.
    :raises SplashifyConfigurationError: If ``default_region`` is not a region.
    """
    at = aware(at, "at")
    policy = policy or RoutingPolicy()
    unavailable, rows = _by_agent(unavailable or {}), read_shifts(shifts)
    roster = _agents(shifts_on_duty(rows, at))
    duty = {key: agent for key, agent in roster.items() if key not in unavailable}
    chats = read_chats(conversations, default_region, duty)
    total = sum(Fraction(str(agent.weight)) for agent in duty.values())
    for agent in duty.values():
        fair_share = len(chats) * Fraction(str(agent.weight)) / total
        has_none = policy.headroom is None or _same(agent.email, policy.used_fallback)
        agent.limit = len(chats) if has_none else math.ceil((1 + Fraction(str(policy.headroom))) * fair_share)
    left_out = {agent.email: unavailable[key] for key, agent in roster.items() if key in unavailable}
    plan = _Routing(at, policy, duty, unavailable, left_out).plan(chats)
    return replace(plan, unavailable=left_out, timezone=shared_zone(rows))


class _Routing:
    """One plan in the making: step by step, and whatever finds no agent goes on to the next."""

    def __init__(
        self,
        at: datetime,
        policy: RoutingPolicy,
        duty: Mapping[str, Agent],
        unavailable: Mapping[str, str],
        left_out: Mapping[str, str],
    ) -> None:
        self._at, self._policy, self._duty = at, policy, duty
        self._unavailable, self._left_out = unavailable, left_out
        self._everyone = Group(duty.values())
        self._alone = {agent: Group([agent]) for agent in duty.values()}
        self._speakers: dict[str, Group] = {}
        self._moves: list[tuple[str, Decision]] = []
        self._kept: list[tuple[str, Decision]] = []
        self._unassigned: list[tuple[str, Decision]] = []

    def plan(self, chats: list[Chat]) -> Plan:
        waiting = sorted(chats, key=lambda chat: (chat.number, chat.phone))
        for tried, step in enumerate(self._policy.steps if self._duty else ()):
            self._take(step, waiting)
            for chat in waiting:
                if chat.agent:
                    self._assign(chat, chat.agent.email, self._why_not(chat, tried) + why(chat, chat.agent, step))
            waiting = [chat for chat in waiting if chat.agent is None]
            if step == "language":
                self._give_up([chat for chat in waiting if self._must_speak(chat)], "no_speaker", tried + 1)
                waiting = [chat for chat in waiting if not self._must_speak(chat)]
        self._give_up(waiting, "nobody_on_duty", len(self._policy.steps))
        moves, kept, unassigned = (
            [decision for _, decision in sorted(decisions, key=lambda item: item[0])]
            for decisions in (self._moves, self._kept, self._unassigned)
        )
        releases = [each.user_phone_number for each in unassigned if each.from_agent and not each.agent_email]
        limits = {agent.email: agent.limit for agent in self._duty.values()}
        return Plan(self._at, limits, moves, kept, unassigned, releases)

    def _take(self, step: Step, waiting: list[Chat]) -> None:
        """Give each conversation an agent from its group for this step, as far as there is room."""
        groups = [(chat, group) for chat in waiting if (group := self._group(step, chat))]
        if "current" in self._policy.steps:
            self._keep(groups)
        for chat, group in groups:
            if chat.agent is None and (choice := group.first_choice(chat.number)):
                _give(chat, choice)

    def _keep(self, groups: list[tuple[Chat, Group]]) -> None:
        """Leave conversations with the agents who hold them, as far as these are eligible and have room."""
        held: dict[Agent, list[Chat]] = defaultdict(list)
        for chat, group in groups:
            if chat.holder in group.members:
                held[chat.holder].append(chat)
        for agent, chats in held.items():
            if len(chats) > agent.room:
                chats.sort(key=partial(self._claim, agent))
            for chat in chats[: agent.room]:
                _give(chat, agent)

    def _claim(self, agent: Agent, chat: Chat) -> tuple[bool, bool, bool, bool, int]:
        """Rank among the conversations an agent holds and can't all keep: the smallest stay."""
        language, policy = chat.conversation.language, self._policy
        has_nobody_else = (
            policy.no_speaker != "fall_through"
            and "language" in policy.steps
            and (group := self._group("language", chat)) is not None
            and not group.members
        )
        speaks = language is not None and _speaks(agent, language)
        return not has_nobody_else, chat.owner is not agent, chat.backup is not agent, not speaks, chat.number

    def _group(self, step: Step, chat: Chat) -> Group | None:
        """Return who is eligible for a conversation; None where the step doesn't apply to it."""
        if step == "everyone":
            return self._everyone
        if step == "language":
            language = chat.conversation.language
            if language is not None and language not in self._speakers:
                self._speakers[language] = Group(agent for agent in self._duty.values() if _speaks(agent, language))
            return self._speakers[language] if language is not None else None
        named = {"current": chat.holder, "owner": chat.owner, "backup": chat.backup}[step]
        return self._alone[named] if named else None

    def _why_not(self, chat: Chat, tried: int) -> str:
        if not self._duty and not self._left_out:
            return "nobody is on duty; "
        reasons = why_not(chat, self._policy.steps, tried, self._group, self._unavailable)
        return reasons if self._duty else f"{reasons}nobody on duty can take chats; "

    def _assign(self, chat: Chat, email: str, reason: str) -> None:
        is_kept = _same(chat.held_by, email)
        fallbacks = () if is_kept else self._fallbacks(chat, email)
        decision = Decision(chat.conversation.user_phone_number, chat.held_by, email, reason, fallbacks)
        (self._kept if is_kept else self._moves).append((chat.phone, decision))

    def _fallbacks(self, chat: Chat, chosen: str) -> tuple[str, ...]:
        """Return who is next in line. Limits don't count: everything would fall to the few who have room."""
        found: dict[str, None] = {}
        for email in self._line(chat):
            if email != chosen:
                found[email] = None
            if len(found) == MOST_FALLBACK_AGENTS:
                return tuple(found)
        passed_over = {email.casefold() for email in (chosen, *found)}
        is_anybody_left = not self._duty.keys() <= passed_over
        option = self._policy.no_speaker if is_anybody_left and self._must_speak(chat) else self._policy.nobody_on_duty
        if option == "fallback_agent" and self._fallback.casefold() not in {*passed_over, *self._unavailable}:
            return (*found, self._fallback)
        return tuple(found)

    def _line(self, chat: Chat) -> Iterator[str]:
        """Go through the steps as the plan does, and through each step's agents by their scores.

        Whoever holds it comes first, too: above a limit they keep it rather than see it go round at every run.
        """
        for step in self._policy.steps:
            if group := self._group(step, chat):
                if chat.holder in group.members and "current" in self._policy.steps:
                    yield chat.holder.email
                # Two more than are wanted: the chosen agent and the holder may be among them.
                yield from (agent.email for agent in group.highest(chat.number, MOST_FALLBACK_AGENTS + 2))
            if step == "language" and self._must_speak(chat):
                return

    @property
    def _fallback(self) -> str:
        """The policy's fallback agent, as the roster spells it."""
        email = self._policy.fallback_agent or ""
        on_duty = self._duty.get(email.casefold())
        return on_duty.email if on_duty else email

    def _must_speak(self, chat: Chat) -> bool:
        return self._policy.no_speaker != "fall_through" and bool(chat.conversation.language)

    def _give_up(self, chats: list[Chat], option: Literal["nobody_on_duty", "no_speaker"], tried: int) -> None:
        """Do with conversations that found no agent what the policy says."""
        action = getattr(self._policy, option)
        fallback = self._fallback if action == "fallback_agent" else ""
        if chats and (action == "fail" or fallback.casefold() in self._unavailable):
            self._fail(chats, option, tried)
        for chat in chats:
            reason, before = self._why_not(chat, tried), chat.held_by
            if self._duty and option == "nobody_on_duty":
                reason += f"no step of {', '.join(self._policy.steps)} found an agent; "
            if fallback:
                if on_duty := self._duty.get(fallback.casefold()):
                    _give(chat, on_duty)
                self._assign(chat, fallback, f"{reason}{fallback} is the fallback")
                continue
            if action == "leave":
                after, what = before, f"left with {before}" if before else "left without an agent"
                if chat.holder:  # counts, and may be more than the limit: nobody else could take it
                    _give(chat, chat.holder)
            else:
                after, what = None, f"to be released from {before}" if before else "nothing to release"
            decision = Decision(chat.conversation.user_phone_number, before, after, reason + what)
            self._unassigned.append((chat.phone, decision))

    def _fail(self, chats: list[Chat], option: str, tried: int) -> NoReturn:
        when, count = f"at {self._at:%Y-%m-%d %H:%M %Z}", plural(len(chats), "open conversation")
        others = f"or choose what else is to be done: {option} in the RoutingPolicy."
        absent = [f"{email} {reason}" for email, reason in self._left_out.items()]
        if getattr(self._policy, option) == "fallback_agent":
            absent.append(f"the fallback {self._fallback} {self._unavailable[self._fallback.casefold()]}")
        if not self._duty:
            nobody = f"Nobody on duty {when} can take" if self._left_out else f"Nobody is on duty {when} for"
            because = f": {first_few(absent)}" if absent else ""
            raise RoutingError(f"{nobody} {count}{because}.\nAdd a shift to the roster, {others}")
        reasons: dict[str, list[str]] = defaultdict(list)
        for chat in chats:
            reasons[self._why_not(chat, tried)].append(mask_phone_number(chat.phone))
        raise RoutingError(
            f"No agent was found for {count} {when}.\nAdd a shift of somebody who can take them, {others}",
            [*absent, *(f"{first_few(phones)}: {reason.rstrip('; ')}" for reason, phones in reasons.items())],
        )


def _by_agent(unavailable: Mapping[str, str]) -> dict[str, str]:
    """Read why agents can't take chats, by their address in small letters."""
    read: dict[str, str] = {}
    problems = []
    for position, (email, given) in enumerate(unavailable.items(), start=1):
        reason = "can't take chats" if is_missing(given) else redact(given)
        try:
            key = email_address(email).casefold()
            read[key] = min(reason, read.get(key, reason))
        except ValueError as error:
            problems.append(f"key {position} {error}")
    if problems:
        refuse("unavailable", problems)
    return read


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


def _same(email: str | None, other: str | None) -> bool:
    return email is not None and other is not None and email.casefold() == other.casefold()


def _give(chat: Chat, agent: Agent) -> None:
    chat.agent = agent
    agent.load += 1


def _speaks(agent: Agent, language: str) -> bool:
    """Check whether one of an agent's languages is this one: pt is pt-BR as well, pt-PT is not."""
    wanted = _subtags(language)
    return any(all(a == b for a, b in zip(wanted, _subtags(own), strict=False)) for own in agent.languages)


def _subtags(language: str) -> list[str]:
    return language.casefold().replace("_", "-").split("-")
