"""What logs and errors may show of phone numbers, keys and texts from outside."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse

# Seven digits or more, however they are separated: what a phone number looks like inside a sentence.
_PHONE_NUMBER_IN_TEXT = re.compile(r"\+?\d(?:[\W_]{0,3}\d){6,}")
_USER_IN_ADDRESS = re.compile(r"//[^/\s]+@")
_LONGEST_QUOTE = 200


def mask_phone_number(phone_number: str) -> str:
    """Shorten a phone number to what logs and errors may show: its last four digits.

    :param phone_number: A number in any form.
    :return: ``…`` and the last four digits.
    """
    return "…" + "".join(char for char in phone_number if char.isdigit())[-4:]


def as_text(value: object) -> str:
    """Write anything as text.

    :param value: Anything.
    :return: The text; none for a whole number of thousands of digits, which Python refuses to write.
    """
    try:
        return str(value)
    except ValueError:
        return ""


def quote(text: object) -> str:
    """Make text from outside fit for a log line: one line, short, phone numbers masked.

    :param text: Anything that was typed by a person or sent by a server.
    :return: Printable text of at most 200 characters.
    """
    line = " ".join("".join(char if char.isprintable() else " " for char in as_text(text)).split())
    line = _PHONE_NUMBER_IN_TEXT.sub(lambda match: _mask_unless_address(match.group()), line)
    return line if len(line) <= _LONGEST_QUOTE else line[: _LONGEST_QUOTE - 1] + "…"


def _mask_unless_address(text: str) -> str:
    host, _, _ = text.rpartition(":")
    return text if ip_address(text) or ip_address(host) else mask_phone_number(text)


def hide(text: str, api_key: str) -> str:
    """Take the API key, and a user and password in an address, out of a text that came from outside.

    :param text: The text.
    :param api_key: The key, which the text may carry as it is or percent-encoded.
    :return: The text with asterisks in their place.
    """
    text = _USER_IN_ADDRESS.sub("//***@", text)
    for form in {api_key, urllib.parse.quote(api_key, safe="")} - {""}:
        text = text.replace(form, "***")
    return text


def ip_address(value: object) -> str | None:
    """Tell an IP address from other text.

    :param value: What may be one.
    :return: The address in its usual form, or None.
    """
    try:
        return str(ipaddress.ip_address(str(value)))
    except ValueError:
        return None


redact, safe_str = quote, as_text
