"""The one rule for an agent's e-mail address: what the sender, the planner and calendars accept."""

from __future__ import annotations

import re
import unicodedata

from splashify_provider.exceptions import InvalidAgentEmailError
from splashify_provider.redaction import mask_phone_number, redact, safe_str

# What browsers accept in <input type="email"> (HTML standard), with the dot that a public domain has. Bounded
# repetitions (RFC 1035, RFC 5321): searching a long text takes time that is linear in its length.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_EMAIL = re.compile(rf"[A-Za-z0-9.!#$%&'*+/=?^_`{{|}}~-]{{1,64}}@{_LABEL}(?:\.{_LABEL}){{1,126}}")
_LONGEST = 254  # RFC 5321, as corrected
MOST_FALLBACK_AGENTS = 10


def is_agent_email(text: str) -> bool:
    """Check whether a text is an e-mail address and nothing else.

    :param text: The text.
    :return: Whether Splashify may be asked for an agent of this address.
    """
    return len(text) <= _LONGEST and _EMAIL.fullmatch(text) is not None


def find_agent_emails(text: str) -> list[str]:
    """Find the e-mail addresses inside a text, such as a calendar event's title.

    :param text: The text; what is far longer than a title should be cut before.
    :return: The addresses, in order, as they are spelled.
    """
    return [found for found in _EMAIL.findall(text) if is_agent_email(found)]


def validate_agent_email(agent_email: object, user_phone_number: object = None) -> str:
    """Refuse anything but an e-mail address: the API takes an empty one for *release this conversation*.

    :param agent_email: The address; blanks around it are dropped.
    :param user_phone_number: The customer whom the error names by the last four digits, where it is known.
    :return: The address.
    :raises InvalidAgentEmailError: If it is missing, blank or malformed.
    """
    text = "" if agent_email is None else safe_str(agent_email).strip()
    if isinstance(agent_email, str) and is_agent_email(text):
        return text
    # In ASCII, so that invisible characters can be seen; with ASCII digits, so that a phone number can be masked.
    digits = "".join(str(unicodedata.decimal(char, char)) for char in text[:_LONGEST])
    what = f"{redact(digits.encode('ascii', 'backslashreplace').decode())!r}, not an address" if text else "missing"
    raise InvalidAgentEmailError(
        f"The agent's e-mail{_of(user_phone_number)} is {what}. Nothing was sent.\n"
        "Correct it where it comes from; to take a conversation away from its agent, use release() or "
        "SplashifyReleaseOperator."
    )


def validate_fallback_agents(
    fallback_agents: object, agent_email: str, user_phone_number: object = None
) -> tuple[str, ...]:
    """Check who is next in line where Splashify refuses an agent.

    :param fallback_agents: Addresses in order: a list or a tuple, or text with commas, semicolons or blanks between
        them, as in a cell of a table. None or an empty one for nobody.
    :param agent_email: The agent who is asked first.
    :param user_phone_number: The customer whom the error names by the last four digits, where it is known.
    :return: The addresses, without that agent and without repeats.
    :raises InvalidAgentEmailError: If one is malformed, or there are more than ten.
    """
    listed = re.split(r"[\s,;]+", fallback_agents) if isinstance(fallback_agents, str) else fallback_agents
    if listed is None:
        return ()
    if not isinstance(listed, (list, tuple)):
        raise InvalidAgentEmailError(
            f"fallback_agents{_of(user_phone_number)} is {type(listed).__name__}, not a list of addresses. Nothing was "
            "sent.\nGive a list, or text with commas between the addresses."
        )
    agents = {agent_email.casefold(): agent_email}
    for each in filter(None, listed) if isinstance(fallback_agents, str) else listed:
        email = validate_agent_email(each, user_phone_number)
        agents.setdefault(email.casefold(), email)
        if len(agents) > 1 + MOST_FALLBACK_AGENTS:
            raise InvalidAgentEmailError(
                f"There are more than {MOST_FALLBACK_AGENTS} fallback agents{_of(user_phone_number)}. Nothing was "
                "sent.\nLeave out those at the end."
            )
    return tuple(agents.values())[1:]


def _of(user_phone_number: object) -> str:
    return "" if user_phone_number is None else f" for {mask_phone_number(safe_str(user_phone_number))}"
