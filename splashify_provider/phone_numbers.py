"""What people type into a phone number field, to the digits Splashify's API takes.

The vendor wants country code and number, "pure digits" (public-api/chat-assignment): ``919876543210``.
Stripping everything else is how messages reach strangers: ten Indian digits without their 91 are an
Iranian number. So a number is either read with certainty or refused.
"""

from __future__ import annotations

import numbers
import re
import unicodedata
from decimal import Decimal
from typing import NoReturn
from urllib.parse import parse_qs, unquote, urlsplit

import phonenumbers
from phonenumbers import PhoneNumberFormat

from splashify_provider.exceptions import (
    InvalidPhoneNumberError,
    SplashifyConfigurationError,
)
from splashify_provider.redaction import mask_phone_number, redact

_API_FORM = re.compile(r"[0-9]{8,15}")
_LONGEST = 100  # characters; more is a text, not a number
_SPREADSHEET_FLOAT = re.compile(r"(\+?[0-9]{7,})\.0+")
_SCIENTIFIC = re.compile(r"\+?[0-9]+([.,][0-9]+)?[eE]\+?[0-9]+")
# Their digits are always a full international number, with or without a plus.
_WHATSAPP_LINK = re.compile(r"(?:https?://)?(?:www\.)?(?:wa\.me|api\.whatsapp\.com|web\.whatsapp\.com)/", re.IGNORECASE)
_WHATSAPP_ID = re.compile(r"\+?([0-9]+)@(?:s\.whatsapp\.net|c\.us)", re.IGNORECASE)
_SCHEME = re.compile(r"(?:tel|whatsapp):", re.IGNORECASE)
# At most seven digits: longer ones are a second number. A bare x needs a blank: "1234x67" hides a digit.
_EXTENSION = re.compile(r"\s*(?:;ext=|,{2,}|\s#|ext(?:ension|n)?[.:]?|\sx[.:]?)\s*[0-9]{1,7}$", re.IGNORECASE)
_PHONE_CONTEXT = re.compile(r"([^;]*);phone-context=(\+[0-9]+)", re.IGNORECASE)
_PUNCTUATION = frozenset("0123456789 +-().[]/")
# Real WhatsApp ids that the numbering plans (and so the library) no longer know: Mexican mobiles keep
# the 1 after the country code, Brazilian ones of before 2016 lack the 9. The library judges the rest.
_MEXICAN_WHATSAPP_ID = re.compile(r"521([0-9]{10})")
_BRAZILIAN_WHATSAPP_ID = re.compile(r"(55[0-9]{2})([6-9][0-9]{7})")


def normalize_phone_number(raw: object, default_region: str | None = None) -> str:
    """Turn a phone number as people, spreadsheets and CRMs write it into the API's form.

    Text of digits only has up to two readings: international, as the API wants it, and national in
    ``default_region``. If both are valid and differ, the number is refused; so is everything else that
    can't be read with certainty.

    :param raw: The number: text in any common notation, or an integral number.
    :param default_region: The region whose national numbers are understood, as ISO 3166-1 alpha-2
        ("IN"). Without it only numbers with their country code are.
    :return: 8 to 15 ASCII digits, country code first, no plus.
    :raises InvalidPhoneNumberError: If the number can't be read with certainty; the text says why.
    :raises SplashifyConfigurationError: If ``default_region`` is not a region.
    """
    region = _region(default_region)
    text = _ascii(_text(raw)).strip(" '`\t\r\n")
    if not text:
        _refuse("The phone number is empty.")
    if (whatsapp := _digits_of_whatsapp(text)) is not None:
        return _only_reading(whatsapp, _international(whatsapp))
    _refuse_other_texts(text)
    text = _bare_number(text)
    digits = "".join(char for char in text if char.isdigit())
    if "+" in text:
        return _only_reading(digits, _international(digits))
    national = _national(digits, region) if region else None
    if digits.startswith("00") or text == digits:
        return _only_reading(digits, _international(digits.removeprefix("00")), national)
    if region is None:
        _refuse(
            f"{mask_phone_number(digits)} is written like a national number, and no default region is set.",
            "Write it with + and the country code, or set default_region in the connection.",
        )
    # "65 8123 4567" is a number of the Indian numbering plan, but Singaporean to whoever grouped it so.
    international = _international(digits) if national else None
    if national and international and _is_written_nationally(text, national, international):
        international = None
    return _only_reading(digits, national, international)


def _region(default_region: str | None) -> str | None:
    region = (default_region or "").strip().upper()
    if region and region not in phonenumbers.SUPPORTED_REGIONS:
        raise SplashifyConfigurationError(
            f"default_region {redact(default_region)!r} is not a region. Nothing was sent.\n"
            "Give the two letters of ISO 3166-1, such as IN, GB or US."
        )
    return region or None


def _text(raw: object) -> str:
    """Accept text, and numbers that still have all their digits."""
    if isinstance(raw, str):
        return raw
    if isinstance(raw, (numbers.Integral, float, Decimal)) and not isinstance(raw, bool):
        try:
            whole = int(raw) if 0 < raw < 10**15 else 0  # type: ignore[operator]  # all of them compare
        except (ValueError, ArithmeticError):  # a signalling NaN
            whole = 0
        if whole and whole == raw:
            if isinstance(raw, float):
                _refuse_lost_digits(str(whole))
            return str(whole)
        _refuse("The phone number is a number that can't be one: NaN, zero, negative, too large or a fraction.")
    if raw is None:
        _refuse("The phone number is missing (None).")
    return _refuse(f"A phone number must be text, not {type(raw).__name__}.")


def _ascii(text: str) -> str:
    """Drop invisible formatting, and write digits, dashes, spaces and brackets of any script in ASCII."""
    if text.isascii():
        return text
    out = []
    for char in text:
        category = unicodedata.category(char)
        if category == "Cf":  # direction marks, zero-width spaces, soft hyphens: copied along from chats and PDFs
            continue
        if category == "Nd":
            out.append(str(unicodedata.digit(char)))
        elif category == "Pd" or char in "\u2212\u30fc":  # minus sign; the long vowel mark used as a dash
            out.append("-")
        elif category == "Zs":
            out.append(" ")
        elif char in "\u2018\u2019":
            out.append("'")
        elif category[0] in "PS":
            out.append(unicodedata.normalize("NFKC", char))
        else:
            out.append(char)
    return "".join(out)


def _digits_of_whatsapp(text: str) -> str | None:
    """Return the digits of a WhatsApp link or id, None where the text is neither."""
    if match := _WHATSAPP_ID.fullmatch(text):
        return match[1]
    if not _WHATSAPP_LINK.match(text):
        return None
    if re.search(r"\s", text):  # urlsplit would glue what stands around it
        _refuse("This WhatsApp link has blanks or line breaks in it.")
    url = urlsplit(text if "://" in text else f"https://{text}")
    in_query = parse_qs(url.query).get("phone", [])
    candidates = in_query if "whatsapp.com" in url.netloc.lower() else [unquote(url.path)]
    digits = candidates[0].strip("/ +") if len(candidates) == 1 else ""
    if not re.fullmatch("[0-9]+", digits):
        _refuse("This WhatsApp link does not carry exactly one phone number.")
    return digits


def _refuse_other_texts(text: str) -> None:
    if text.casefold() in ("none", "null", "nan"):
        _refuse(f"The phone number is the text {text!r}.", "Check the template or the column it comes from.")
    if len(text) > _LONGEST:
        _refuse(f"This is a text of {len(text):,} characters, not a phone number.")
    if _SCIENTIFIC.fullmatch(text):
        _refuse(
            "The phone number is in a spreadsheet's scientific notation (as 9.19877E+11), which has lost digits.",
            "Format the column as text and export it again.",
        )
    if re.search(r"@(g\.us|lid|broadcast|newsletter)$", text, re.IGNORECASE):
        _refuse("This is the WhatsApp id of a group or a hidden user, not of a phone number.")


def _refuse_lost_digits(digits: str) -> None:
    """Refuse what a spreadsheet's scientific notation leaves of a number: zeros in the place of its last digits."""
    if digits.endswith("00000"):
        _refuse(
            f"The phone number is a decimal that ends in zeros ({len(digits)} digits): a spreadsheet has lost the last "
            "ones.",
            "Format the column as text and export it again.",
        )


def _bare_number(text: str) -> str:
    """Take off scheme, extension and doubled plus signs; refuse what is not one whole number."""
    if match := _SPREADSHEET_FLOAT.fullmatch(text):
        text = match[1]
        _refuse_lost_digits(text)
    if match := _SCHEME.match(text):
        text = text[match.end() :]
    if match := _PHONE_CONTEXT.fullmatch(text):  # RFC 3966: a local number and the prefix it lacks
        text = match[1] if match[1].lstrip().startswith("+") else match[2] + match[1]
    text = _EXTENSION.sub("", text)
    text = re.sub(r"^[ (\[]*\+[+ ]*", "+", text.strip())
    strange = sorted(set(text) - _PUNCTUATION)
    if any(char.isalpha() for char in strange):
        _refuse("The phone number contains letters.", "Write it in digits, with the country code.")
    if text.startswith("-"):
        _refuse(
            "The phone number starts with a minus: a spreadsheet has taken it for a formula.",
            "Format the column as text and export it again.",
        )
    if ".." in text or (text.count(".") == 1 and re.search(r"\.(0+|\d{1,2})$", text)):
        _refuse("The phone number is cut off, or a decimal fraction.", "Export it as text, in full.")
    digits = sum(char.isdigit() for char in text)
    if "+" in text[1:] or digits > 15 or any(char in ",;|&\n\r\t" for char in strange) or not _is_one_number(text):
        _refuse(
            f"There is more than one phone number here, or separators that no single one has ({digits} digits, ending "
            f"in {mask_phone_number(text)}).",
            "Give one number of at most 15 digits.",
        )
    if strange:
        _refuse(f"The phone number contains {strange[0]!r}, which no phone number does.")
    return text


def _is_one_number(text: str) -> bool:
    """Check whether a slash stands behind an area code (030/1234567), not before a second number or its last digits."""
    halves = [sum(char.isdigit() for char in half) for half in text.split("/")]
    return len(halves) == 1 or (len(halves) == 2 and halves[0] <= (7 if text[0] == "+" else 5) and halves[1] >= 6)


def _international(digits: str) -> str | None:
    if match := _MEXICAN_WHATSAPP_ID.fullmatch(digits):
        if _valid("+52" + match[1], None):
            return digits
    elif (match := _BRAZILIAN_WHATSAPP_ID.fullmatch(digits)) and _valid(f"+{match[1]}9{match[2]}", None):
        return digits
    return _valid("+" + digits, None)


def _national(digits: str, region: str) -> str | None:
    valid = _valid(digits, region)
    if valid is None and region == "BR":
        return _international("55" + digits)
    return valid


def _valid(text: str, region: str | None) -> str | None:
    """Return the number's E.164 digits if its numbering plan knows it, else None."""
    try:
        parsed = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(parsed):
        return None
    return phonenumbers.format_number(parsed, PhoneNumberFormat.E164)[1:]


def _is_written_nationally(text: str, national: str, international: str) -> bool:
    """Check whether the grouping is the national one, and not just as well that of the other reading."""
    groups = re.findall("[0-9]+", text)
    if groups != _groups(national, PhoneNumberFormat.NATIONAL):
        return False
    return "(" in text or groups != _groups(international, PhoneNumberFormat.INTERNATIONAL)


def _groups(number: str, form: int) -> list[str]:
    return re.findall("[0-9]+", phonenumbers.format_number(phonenumbers.parse("+" + number), form))


def _only_reading(digits: str, *readings: str | None) -> str:
    """Return the one valid reading, or refuse."""
    valid = sorted({reading for reading in readings if reading})
    if len(valid) > 1:
        regions = " and ".join(
            f"a valid {phonenumbers.region_code_for_number(phonenumbers.parse('+' + reading)) or 'international'} "
            f"number ending in {mask_phone_number(reading)}"
            for reading in valid
        )
        _refuse(
            f"{mask_phone_number(digits)} has two readings, {regions}, and guessing would reach the wrong person.",
            "Write it with + and the country code.",
        )
    if not valid:
        _refuse(
            f"{mask_phone_number(digits)} ({len(digits)} digits) is not a valid phone number.",
            "Write it with + and the country code, or set default_region in the connection if it is a national one.",
        )
    if not _API_FORM.fullmatch(valid[0]):
        _refuse(f"{mask_phone_number(digits)} is not 8 to 15 digits long with its country code.")
    return valid[0]


def _refuse(reason: str, remedy: str = "Correct it where it comes from.") -> NoReturn:
    raise InvalidPhoneNumberError(f"{reason} Nothing was sent.\n{remedy}")
