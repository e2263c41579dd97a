from __future__ import annotations

import pytest

from splashify_provider.redaction import hide, mask_phone_number, quote


def test_quoted_text_is_one_short_printable_line():
    assert quote("a\r\n\x1b[31mb\u2028c") == "a [31mb c"
    assert len(quote("x" * 1000)) == 200
    assert quote("call +91 (98765) 43210 now") == "call …3210 now"
    assert quote("error 500 at 12:30") == "error 500 at 12:30"


def test_a_mask_shows_no_more_than_four_digits():
    assert mask_phone_number("+91 98765 43210") == "…3210"
    assert mask_phone_number("12") == "…12"


@pytest.mark.parametrize("text", ["127.0.0.1:6379 refused", "10.20.30.40:65535", "192.168.100.200"])
def test_an_address_is_no_phone_number(text):
    assert quote(text) == text


def test_a_user_and_password_in_an_address_are_hidden():
    text = hide("Failed to parse: http://user:pa55@word@proxy.example.com:99999/x", "sk_live_1")
    assert text == "Failed to parse: http://***@proxy.example.com:99999/x"


def test_numbers_that_python_does_not_write_are_quoted_as_nothing():
    assert quote(10**5000) == ""
