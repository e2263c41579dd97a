"""What logs and errors may show of phone numbers, keys and text from outside, and how they count."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")

# Seven digits or more, however they are separated: what a phone number looks like inside a sentence.
_PHONE_NUMBER = re.compile(r"\+?\d(?:[\W_]{0,3}\d){6,}")
_PORT = re.compile(r":\d{1,5}$")
_CREDENTIALS = re.compile(r"//[^/\s]+@")
_LONGEST = 200
_LONGEST_READ = 10_000


def mask_phone_number(phone_number: str) -> str:
    """Return the part of a phone number that logs and errors may show: its last four digits.

    :param phone_number: A number in any form.
    :return: ``…`` and the last four digits.
    """
    return "…" + "".join(char for char in phone_number if char.isdigit())[-4:]


def safe_str(value: object) -> str:
    """Return anything as text.

    :param value: Anything.
    :return: The text; none where there is none, as of a whole number of thousands of digits.
    """
    try:
        return str(value)
    except Exception:
        return ""


def redact(value: object, secret: str = "") -> str:
    """Make text from outside fit for a log line: one line, short, without phone numbers and credentials.

    :param value: Anything that a person typed or a server sent.
    :param secret: The API key, which the text may carry as it is or percent-encoded.
    :return: Printable text of at most 200 characters; asterisks in the place of the key, and of user and password in an
        address; the last four digits of each phone number.
    """
    text = safe_str(value)
    for form in {secret, urllib.parse.quote(secret, safe="")} - {""}:
        text = text.replace(form, "***")
    if len(text) > _LONGEST_READ:  # without the start of a number whose end is cut off
        text = text[: next((end for end in range(_LONGEST_READ, 0, -1) if text[end - 1].isalpha()), 0)]
    text = _CREDENTIALS.sub("//***@", text)
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    line = _PHONE_NUMBER.sub(lambda match: _mask_unless_address(match.group()), line)
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _mask_unless_address(text: str) -> str:
    """Keep an IPv4 address, with or without its port. An IPv6 address could be a phone number in disguise."""
    address = ip_address(_PORT.sub("", text)) or ""
    return text if "." in address else mask_phone_number(text)


def plural(count: int, noun: str) -> str:
    """Return a number with its noun.

    :param count: The number.
    :param noun: The noun in the singular.
    :return: ``1 row``, ``1,000 rows``.
    """
    return f"{count:,} {noun}" + "s" * (count != 1)


def ip_address(value: object) -> str | None:
    """Return an IP address as the standard library writes it.

    :param value: What may be one.
    :return: The address without a scope id, which may hold any text; None if the value is no address.
    """
    try:
        address = ipaddress.ip_address(str(value))
    except ValueError:
        return None
    return str(type(address)(int(address)))


def without_frames(kind: type[Exception]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a decorator that cuts the traceback of the errors of a kind that a function raises.

    The frames behind them hold the key and whole phone numbers, and tools such as Sentry show every frame's variables.

    :param kind: The errors, whose texts say everything.
    :return: The decorator.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return function(*args, **kwargs)
            except BaseException as error:
                # A stop or a time-out of Airflow's, which may strike anywhere, is no Exception.
                if isinstance(error, Exception) and not isinstance(error, kind):
                    raise
                failure = error.with_traceback(None)
            failure.__context__ = None
            del args, kwargs
            raise failure from None

        return call

    return decorate
