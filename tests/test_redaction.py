from __future__ import annotations

from splashify_provider.redaction import mask_phone_number, quote


def test_quoted_text_is_one_short_printable_line():
    assert quote("a\r\n\x1b[31mb\u2028c") == "a [31mb c"
    assert len(quote("x" * 1000)) == 200
    assert quote("call +91 (98765) 43210 now") == "call …3210 now"
    assert quote("error 500 at 12:30") == "error 500 at 12:30"


def test_a_mask_shows_no_more_than_four_digits():
    assert mask_phone_number("+91 98765 43210") == "…3210"
    assert mask_phone_number("12") == "…12"
