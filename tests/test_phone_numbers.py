from __future__ import annotations

import re
from contextlib import suppress
from decimal import Decimal

import phonenumbers
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from phonenumbers import PhoneNumberFormat, PhoneNumberType

from splashify_provider.exceptions import InvalidPhoneNumberError, SplashifyConfigurationError
from splashify_provider.phone_numbers import normalize_phone_number

READ = [
    # digits only: the international reading, unchanged
    ("919876543210", None, "919876543210"),
    ("919876543210", "IN", "919876543210"),
    ("9876543210", "IN", "919876543210"),
    ("15123456789", None, "15123456789"),
    ("15123456789", "US", "15123456789"),
    # a plus, in all its spellings
    ("+91 98765-43210", None, "919876543210"),
    ("(+91) 98765 43210", None, "919876543210"),
    ("++91 98765 43210", None, "919876543210"),
    ("+ 91 98765 43210", None, "919876543210"),
    ("\uff0b91 98765 43210", None, "919876543210"),
    ("+65 8123 4567", "IN", "6581234567"),
    # trunk zeros: dropped where the country drops them, kept where it keeps them
    ("+44 (0)20 7946 0958", None, "442079460958"),
    ("+91 0 98765 43210", None, "919876543210"),
    ("+62 0812 3456 7890", None, "6281234567890"),
    ("+39 06 1234 5678", None, "390612345678"),
    # 00 is a plus
    ("0044 20 7946 0958", None, "442079460958"),
    ("00442079460958", None, "442079460958"),
    ("0091 98765 43210", "IN", "919876543210"),
    ("011 44 20 7946 0958", "US", "442079460958"),
    # national
    ("098765 43210", "IN", "919876543210"),
    ("020 7946 0958", "GB", "442079460958"),
    ("020 7946 0958", " gb ", "442079460958"),
    ("(201) 555-0123", "US", "12015550123"),
    ("030/1234567", "DE", "49301234567"),
    ("+49 (0)170/1234567", None, "491701234567"),
    ("131 2345 6789", "CN", "8613123456789"),  # American in other groups
    ("(501) 622-1234", "US", "15016221234"),  # the parentheses are national
    # what WhatsApp calls them
    ("+54 11 15 2345-6789", None, "5491123456789"),
    ("+52 1 55 1234 5678", None, "5215512345678"),
    ("5215512345678", None, "5215512345678"),
    ("5215512345678", "MX", "5215512345678"),
    ("+52 55 1234 5678", None, "525512345678"),
    ("+55 51 8765-4321", None, "555187654321"),
    ("555187654321", None, "555187654321"),
    ("555187654321", "BR", "555187654321"),
    ("(51) 8765-4321", "BR", "555187654321"),
    # invisible characters, other dashes, other digits
    ("\u202a+91\u00a098765\u201143210\u202c", None, "919876543210"),
    ("\u200e+91 98765\u201243210\ufeff", None, "919876543210"),
    ("\u2066+91\u200b98765\u00ad\u221243210\u2069", None, "919876543210"),
    ("٩١٩٨٧٦٥٤٣٢١٠", None, "919876543210"),
    ("९१९८७६५४३२१०", None, "919876543210"),
    ("\uff19\uff11\uff19\uff18\uff17\uff16\uff15\uff14\uff13\uff12\uff11\uff10", None, "919876543210"),
    # extensions
    ("+91 98765 43210 x123", None, "919876543210"),
    ("+91 98765 43210 ext. 123", None, "919876543210"),
    ("+91 98765 43210;ext=12", None, "919876543210"),
    ("+91 98765 43210,,123", None, "919876543210"),
    # links and ids
    ("tel:+91-98765-43210", None, "919876543210"),
    ("tel:+91-98765-43210;ext=12", None, "919876543210"),
    ("tel:98765-43210;phone-context=+91", None, "919876543210"),
    ("whatsapp:+919876543210", None, "919876543210"),
    ("https://wa.me/919876543210", None, "919876543210"),
    ("https://wa.me/919876543210?text=Hi%20there", None, "919876543210"),
    ("wa.me/6581234567", "IN", "6581234567"),
    ("https://api.whatsapp.com/send?phone=919876543210&text=Hi", None, "919876543210"),
    ("https://api.whatsapp.com/send?text=see%26phone%3D12025550101&phone=919876543210", None, "919876543210"),
    ("https://wa.me/+919876543210/", None, "919876543210"),
    ("919876543210@s.whatsapp.net", None, "919876543210"),
    ("919876543210@c.us", None, "919876543210"),
    # spreadsheets and databases
    ("919876543210.0", None, "919876543210"),
    ("919876543210.000", None, "919876543210"),
    ("06 12.34.56.00", "FR", "33612345600"),
    ("'919876543210", None, "919876543210"),
    ("’+91 98765 43210", None, "919876543210"),
    ("  919876543210\n", None, "919876543210"),
    (919876543210.0, None, "919876543210"),
    (919876543210, None, "919876543210"),
    (9876543210, "IN", "919876543210"),
    (Decimal(919876543210), None, "919876543210"),
]

REFUSED = [
    ("9876543210", None, "not a valid phone number"),  # the digits of an Iranian number
    ("6581234567", "IN", "a valid SG number .* and a valid IN number"),
    ("65 8123 4567", "IN", "two readings"),
    ("501 622 1234", "US", "two readings"),  # grouped as in Belize, too
    ("354 410 1234", "MX", "two readings"),  # … and in Iceland
    ("15123456789", "DE", "a valid US number .* and a valid DE number"),
    ("2015550123", "US", "two readings"),
    ("098765 43210", None, "no default region"),
    ("020 7946 0958", None, "no default region"),
    ("(658) 123-4567", None, "no default region"),
    ("02079460958", None, "not a valid phone number"),
    ("91987654321¹", None, "contains '¹'"),
    ("① 9876543210", None, "contains '①'"),
    ("120363025246125486@g.us", None, "group"),
    ("123456789012345@lid", None, "group or a hidden user"),
    ("9.19877E+11", None, "scientific notation"),
    ("9,19877e11", None, "scientific notation"),
    ("9876543210, 9876543211", "IN", "more than one"),
    ("9876543210; 9876543211", "IN", "more than one"),
    ("9876543210 / 9876543211", "IN", "more than one"),
    ("9876543210\n9876543211", "IN", "more than one"),
    ("+49 30 123456/57", None, "more than one"),
    ("021-1234567/8", "ID", "more than one"),
    ("+39 06 1234567/8", None, "more than one"),
    ("+49 30 123456~9", None, "contains '~'"),
    ("+49 30 123456…", None, "cut off"),
    ("+49 30 123456...", None, "cut off"),
    ("…2025550101", "US", "cut off"),
    ("+49 30 123456.0", None, "fraction"),
    ("030 1234567.00", "DE", "fraction"),
    ("-9876543119", "IN", "minus"),
    ("\u22129876543119", "IN", "minus"),
    ("+49 30 1234x67", None, "letters"),
    ("https://wa.me/message/ABC", None, "exactly one"),
    ("https://api.whatsapp.com/send?phone=919876543210&phone=12025550101", None, "exactly one"),
    ("https://api.whatsapp.com/send?text=Hi", None, "exactly one"),
    ("+91 98765" + " " * 40000 + "43210", None, "characters"),
    ("1" + "," * 20000 + "a", None, "characters"),
    ("919877000000.0", None, "lost the last"),
    (919877000000.0, None, "lost the last"),
    (Decimal("1E+1000000"), None, "too large"),
    ("+919876543210 +919876543211", None, "more than one"),
    ("9876543210 9876543211", "IN", "more than one"),
    ("9876543210 or 9876543211", "IN", "letters"),
    ("9876543210x9876543211", "IN", "letters"),
    ("1-800-FLOWERS", "US", "letters"),
    ("9876543210O", "IN", "letters"),
    ("None", None, "the text 'None'"),
    (" null ", "IN", "the text 'null'"),
    ("https://wa.me/9198765\n43210", None, "blanks or line breaks"),
    ("9198765432.10", "IN", "decimal fraction"),
    ("0612345678.5", "IN", "decimal fraction"),
    ("NaN", None, "the text 'NaN'"),
    ("*100#", None, "contains '#'"),
    ("+91 98765 4321", None, "not a valid phone number"),
    ("+999 1234567890", None, "not a valid phone number"),
    ("112", "DE", "not a valid phone number"),
    ("+", None, "not a valid phone number"),
    ("", None, "empty"),
    ("   ", None, "empty"),
    ("\u200b", None, "empty"),
    (None, None, "missing"),
    (float("nan"), None, "NaN"),
    (float("inf"), None, "NaN"),
    (Decimal("sNaN"), None, "NaN"),
    (919876543210.5, None, "fraction"),
    (-919876543210, None, "negative"),
    (9.19877e20, None, "too large"),
    (True, "IN", "bool"),
    (b"919876543210", None, "bytes"),
    (["919876543210"], None, "list"),
]


@pytest.mark.parametrize(("raw", "region", "digits"), READ)
def test_reads(raw, region, digits):
    assert normalize_phone_number(raw, region) == digits


@pytest.mark.parametrize(("raw", "region", "why"), REFUSED)
def test_refuses_and_says_why(raw, region, why):
    with pytest.raises(InvalidPhoneNumberError, match=f"(?s){why}.*Nothing was sent") as raised:
        normalize_phone_number(raw, region)
    assert not re.search(r"\d{5}", str(raised.value).replace("9.19877E+11", ""))


@pytest.mark.parametrize("region", ["UK", "India", "91", "001", "Q!"])
def test_an_unknown_region_is_a_configuration_error(region):
    with pytest.raises(SplashifyConfigurationError, match="default_region"):
        normalize_phone_number("919876543210", region)


@pytest.mark.parametrize("region", ["", "  ", None])
def test_a_blank_region_is_none(region):
    assert normalize_phone_number("919876543210", region) == "919876543210"


# The API takes 8 to 15 digits; these example numbers have seven with their country code.
TOO_SHORT = {
    ("IR", "UAN"): "989601",
    ("NL", "UAN"): "3114020",
    ("NO", "UAN"): "4702000",
    ("SJ", "UAN"): "4702000",
    ("NU", "FIXED_LINE"): "6837012",
    ("NU", "FIXED_LINE_OR_MOBILE"): "6837012",
    ("TA", "FIXED_LINE"): "2908999",
    ("TA", "FIXED_LINE_OR_MOBILE"): "2908999",
    ("TK", "FIXED_LINE"): "6903101",
    ("TK", "MOBILE"): "6907290",
    ("TK", "FIXED_LINE_OR_MOBILE"): "6903101",
}


# Written nationally it is grouped just as an international freephone number (+800) would be.
AMBIGUOUS = {("HN", "TOLL_FREE"): "50480021234567"}


def example_numbers():
    types = {value: name for name, value in vars(PhoneNumberType).items() if name.isupper() and isinstance(value, int)}
    for region in sorted(phonenumbers.SUPPORTED_REGIONS):
        for value, name in sorted(types.items()):
            number = phonenumbers.example_number_for_type(region, value)
            if number is not None:
                yield region, name, number


def test_every_region_and_type_of_number_normalizes_from_every_notation():
    exceptions, checked = {}, 0
    for region, kind, number in example_numbers():
        e164 = phonenumbers.format_number(number, PhoneNumberFormat.E164)
        forms = (PhoneNumberFormat.INTERNATIONAL, PhoneNumberFormat.RFC3966)
        notations = [
            (text, None) for text in (e164, e164[1:], *(phonenumbers.format_number(number, form) for form in forms))
        ]
        notations.append((phonenumbers.format_number(number, PhoneNumberFormat.NATIONAL), region))
        for text, default_region in notations:
            checked += 1
            try:
                assert normalize_phone_number(text, default_region) == e164[1:], (text, region, kind)
            except InvalidPhoneNumberError:
                exceptions[region, kind] = e164[1:]
    assert exceptions == {**TOO_SHORT, **AMBIGUOUS}
    assert checked > 6000


REGIONS = st.sampled_from([None, "IN", "US", "DE", "GB", "SG", "BR", "MX", "AR", "IT", "JP"])
PHONE_LIKE = st.text(alphabet="0123456789+-() ./xX,;#:@٣９\u200e", max_size=30)
EXAMPLES = st.sampled_from(
    [phonenumbers.format_number(number, PhoneNumberFormat.E164) for _, _, number in example_numbers()]
)


@given(st.one_of(st.text(), PHONE_LIKE, EXAMPLES, EXAMPLES.map(lambda text: text[1:])), REGIONS)
@example("9" * 400, None)
@example(" " * 400, "IN")
@example("6581234567", "IN")
@settings(max_examples=1500, deadline=None)
def test_any_text_gives_digits_or_a_refusal_and_twice_is_once(text, region):
    try:
        digits = normalize_phone_number(text, region)
    except InvalidPhoneNumberError:
        return
    assert re.fullmatch("[0-9]{8,15}", digits)
    assert normalize_phone_number(digits) == digits
    try:
        again = normalize_phone_number(digits, region)
    except InvalidPhoneNumberError as error:  # never another number: at most "say which you mean"
        again = digits if "two readings" in str(error) else str(error)
    assert again == digits


@given(st.one_of(st.integers(), st.floats(), st.decimals(), st.none(), st.booleans(), st.binary(), st.lists(st.text())))
@settings(max_examples=300, deadline=None)
def test_any_other_value_gives_digits_or_a_refusal(value):
    with suppress(InvalidPhoneNumberError):
        assert re.fullmatch("[0-9]{8,15}", normalize_phone_number(value, "IN"))
