"""Why a conversation goes to an agent, and why not to those who would have come first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from splashify_provider.routing.conversations import Chat
    from splashify_provider.routing.policy import Step
    from splashify_provider.routing.rendezvous import Agent, Group

    Eligible = Callable[[Step, Chat], Group | None]


def why(chat: Chat, agent: Agent, step: Step) -> str:
    """Return why an agent gets a conversation.

    :param chat: The conversation.
    :param agent: The agent.
    :param step: The step that found them.
    :return: The reason.
    """
    more = {
        "current": "",
        "owner": " and owns the customer",
        "backup": " and stands in for the owner",
        "language": f" and speaks {chat.conversation.language}",
        "everyone": "",
    }[step]
    return f"{agent.email} is on duty{more}"


def why_not(chat: Chat, steps: Sequence[Step], tried: int, eligible: Eligible, unavailable: Mapping[str, str]) -> str:
    """Return why those who would have come first don't get a conversation.

    :param chat: The conversation.
    :param steps: The policy's steps.
    :param tried: How many of them found no agent.
    :param eligible: Returns who is eligible for a conversation at a step; None where the step doesn't apply to it.
    :param unavailable: Why agents can't take chats, by their address in small letters.
    :return: The reasons, each followed by a semicolon.
    """
    reasons = [
        *_not_the_holder(chat, steps, tried, eligible, unavailable),
        *_not_the_named(chat, steps[:tried], unavailable),
        *(_not_the_speakers(chat, eligible) if "language" in steps[:tried] else ()),
    ]
    return "".join(f"{reason}; " for reason in dict.fromkeys(reasons))  # each once


def _not_the_holder(
    chat: Chat, steps: Sequence[Step], tried: int, eligible: Eligible, unavailable: Mapping[str, str]
) -> Iterator[str]:
    if chat.conversation.agent_email is None:
        yield "nobody held it"
    elif chat.holder is None:
        yield _is_off(chat.conversation.agent_email, unavailable)
    elif chat.holder is not chat.agent and "current" in steps:
        groups = (eligible(step, chat) for step in steps[: tried + (chat.agent is not None)])
        if any(group and chat.holder in group.members for group in groups):
            yield _is_full(chat.holder)


def _not_the_named(chat: Chat, tried: Sequence[Step], unavailable: Mapping[str, str]) -> Iterator[str]:
    for step, email, agent in (
        ("owner", chat.conversation.owner_email, chat.owner),
        ("backup", chat.conversation.backup_email, chat.backup),
    ):
        if email and step in tried:
            yield f"the {step} {_is_full(agent) if agent else _is_off(email, unavailable)}"


def _not_the_speakers(chat: Chat, eligible: Eligible) -> Iterator[str]:
    language, group = chat.conversation.language, eligible("language", chat)
    if group is not None:
        yield (
            f"everybody on duty who speaks {language} is at their limit"
            if group.members
            else f"nobody on duty speaks {language}"
        )


def _is_off(email: str, unavailable: Mapping[str, str]) -> str:
    return f"{email} {unavailable.get(email.casefold(), 'is not on duty')}"


def _is_full(agent: Agent) -> str:
    return f"{agent.email} is at the limit of {agent.limit:,}"
