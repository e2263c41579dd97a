"""What people type as an agent's e-mail address, read strictly."""

from __future__ import annotations

import re
import unicodedata

from splashify_provider.exceptions import InvalidAgentEmailError
from splashify_provider.redaction import as_text, quote

# What browsers accept in <input type="email"> (HTML standard), with the dot that a public domain has.
_EMAIL = re.compile(
    r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+",
    re.IGNORECASE,
)


def validate_agent_email(agent_email: object) -> str:
    """Refuse anything but an e-mail address: the API takes an empty one for *release this conversation*.

    :param agent_email: The address; blanks around it are dropped.
    :return: The address.
    :raises InvalidAgentEmailError: If it is missing, blank or malformed.
    """
    text = "" if agent_email is None else as_text(agent_email).strip()
    if isinstance(agent_email, str) and len(text) <= 254 and _EMAIL.fullmatch(text):
        return text
    # In ASCII, so that invisible characters can be seen; with ASCII digits, so that a phone number can be masked.
    digits = "".join(str(unicodedata.decimal(char, char)) for char in text)
    what = f"{quote(digits.encode('ascii', 'backslashreplace').decode())!r}, not an address" if text else "missing"
    raise InvalidAgentEmailError(
        f"The agent's e-mail is {what}. Nothing was sent. To take a conversation away from its agent, use "
        "release() or SplashifyReleaseOperator."
    )
