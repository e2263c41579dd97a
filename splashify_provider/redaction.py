"""What logs and errors may show of phone numbers, keys and texts from outside."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse

# Seven digits or more, however they are separated: what a phone number looks like inside a sentence.
_PHONE_NUMBER_IN_TEXT = re.compile(r"\+?\d(?:[\W_]{0,3}\d){6,}")
_LONGEST_QUOTE = 200


def mask_phone_number(phone_number: str) -> str:
    """Shorten a phone number to what logs and errors may show: its last four digits.

    :param phone_number: A number in any form.
    :return: ``…`` and the last four digits.
    """
    return "…" + "".join(char for char in phone_number if char.isdigit())[-4:]


def quote(text: object) -> str:
    """Make text from outside fit for a log line: one line, short, phone numbers masked.

    :param text: Anything that was typed by a person or sent by a server.
    :return: Printable text of at most 200 characters.
    """
    line = " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())
    line = _PHONE_NUMBER_IN_TEXT.sub(
        lambda match: match.group() if ip_address(match.group()) else mask_phone_number(match.group()), line
    )
    return line if len(line) <= _LONGEST_QUOTE else line[: _LONGEST_QUOTE - 1] + "…"


def hide(text: str, api_key: str) -> str:
    """Take the API key out of a text that came from outside.

    :param text: The text.
    :param api_key: The key, which the text may carry as it is or percent-encoded.
    :return: The text with asterisks in its place.
    """
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
