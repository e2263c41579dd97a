"""The open conversations, one for each customer, with the agents they name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any

from splashify_provider.exceptions import InvalidPhoneNumberError, RoutingError
from splashify_provider.redaction import mask_phone_number, plural, redact
from splashify_provider.routing.fields import convert, is_missing, optional_email_address, read_rows
from splashify_provider.routing.rendezvous import hash_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from splashify_provider.routing.rendezvous import Agent


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


@dataclass(eq=False, slots=True)
class Chat:
    """A conversation, the agents on duty that it names, and whom it goes to.

    :param conversation: The conversation.
    :param phone: One key for all notations of its customer's number.
    :param number: The hash of that key.
    :param holder: Who holds it, if on duty.
    :param owner: The customer's owner, if on duty.
    :param backup: Who stands in for the owner, if on duty.
    :param agent: Whom it goes to, once somebody is found.
    """

    conversation: Conversation
    phone: str
    number: int
    holder: Agent | None
    owner: Agent | None
    backup: Agent | None
    agent: Agent | None = None

    @property
    def held_by(self) -> str | None:
        """The holder's address, as the roster spells it."""
        return self.holder.email if self.holder else self.conversation.agent_email


def read_chats(
    rows: Iterable[Conversation | Mapping[str, Any]], region: str | None, duty: Mapping[str, Agent]
) -> list[Chat]:
    """Return the conversations, one for each customer.

    :param rows: Conversations, or rows with their fields.
    :param region: Whose national phone numbers are understood ("IN"), to see that two notations are one number.
    :param duty: The agents on duty, by their address in small letters.
    :return: The conversations, with the agents they name.
    :raises RoutingError: Naming every bad row, and every customer who is in two rows that differ.
    """
    first: dict[str, tuple[int, Conversation]] = {}
    problems: list[str] = []
    conversations: list[Conversation] = read_rows(rows, lambda _: Conversation, (Conversation,), "conversations")
    for position, conversation in enumerate(conversations, start=1):
        phone = customer_key(conversation.user_phone_number, region)
        earlier, same = first.setdefault(phone, (position, conversation))
        problems += (
            f"conversation {position}: {name} is {new}, but the same customer ({mask_phone_number(phone)}) has {old} "
            f"in conversation {earlier}"
            for name, old, new in _differences(same, conversation)
        )
        first[phone] = earlier, min(same, conversation, key=_spelling)
    if problems:
        raise RoutingError(f"{plural(len(problems), 'contradiction')} between conversations:", problems)

    def named(email: str | None) -> Agent | None:
        return duty.get(email.casefold()) if email else None

    return [
        Chat(each, phone, hash_of(phone), named(each.agent_email), named(each.owner_email), named(each.backup_email))
        for phone, each in _spelled_alike({phone: each for phone, (_, each) in first.items()})
    ]


def _spelled_alike(conversations: Mapping[str, Conversation]) -> Iterator[tuple[str, Conversation]]:
    """Spell the address of who holds a conversation the same in all of them: off duty, too, that is one agent."""
    spelled: dict[str, str] = {}
    for each in conversations.values():
        if each.agent_email:
            key = each.agent_email.casefold()
            spelled[key] = min(each.agent_email, spelled.get(key, each.agent_email))
    for phone, each in conversations.items():
        spelling = spelled[each.agent_email.casefold()] if each.agent_email else None
        yield phone, each if each.agent_email == spelling else replace(each, agent_email=spelling)


def _differences(one: Conversation, other: Conversation) -> Iterator[tuple[str, str, str]]:
    for name in ("agent_email", "owner_email", "backup_email", "language"):
        old, new = (redact(getattr(each, name) or "(nobody)") for each in (one, other))
        if old.casefold() != new.casefold():
            yield name, old, new


def _spelling(conversation: Conversation) -> tuple[str, ...]:
    return tuple(str(value or "") for value in vars(conversation).values())


def customer_key(phone_number: str, region: str | None) -> str:
    """Return one key for all notations of a number.

    Whether it may be sent is judged where it is sent: one bad number in a table is no reason to leave everybody else
    without an agent.

    :param phone_number: The number, in any notation.
    :param region: Whose national notation is understood ("IN"), if any.
    :return: The number in the API's form; for what can't be read with certainty its digits, marked.
    """
    from splashify_provider.phone_numbers import normalize_phone_number  # slow to load

    try:
        return normalize_phone_number(phone_number, region)
    except InvalidPhoneNumberError:
        return "?" + "".join(char for char in phone_number if char.isdigit())  # may be somebody else's digits


def _language(value: object) -> str | None:
    return None if is_missing(value) else redact(value)


def _phone_number(value: object) -> str:
    if is_missing(value):
        raise ValueError("is missing")
    if not isinstance(value, (str, Real, Decimal)) or isinstance(value, bool):
        raise ValueError("is neither text nor a number")
    if not any(char.isdigit() for char in str(value)):
        raise ValueError("has no digits")
    return str(value)  # as it is, so that whoever gave it finds it again
