from __future__ import annotations

import traceback

import pytest

from splashify_provider.redaction import ip_address, mask_phone_number, plural, redact, without_frames
from tests.conftest import shown_in_frames


def test_quoted_text_is_one_short_printable_line():
    assert redact("a\r\n\x1b[31mb\u2028c") == "a [31mb c"
    assert len(redact("x" * 1000)) == 200
    assert redact("call +91 (98765) 43210 now") == "call …3210 now"
    assert redact("error 500 at 12:30") == "error 500 at 12:30"


def test_a_mask_shows_no_more_than_four_digits():
    assert mask_phone_number("+91 98765 43210") == "…3210"
    assert mask_phone_number("12") == "…12"


@pytest.mark.parametrize("text", ["127.0.0.1:6379 refused", "10.20.30.40:65535", "192.168.100.200"])
def test_an_address_is_no_phone_number(text):
    assert redact(text) == text


def test_a_user_and_password_in_an_address_are_hidden():
    text = redact("Failed to parse: http://user:pa55@word@proxy.example.com:99999/x", "sk_live_1")
    assert text == "Failed to parse: http://***@proxy.example.com:99999/x"


def test_numbers_that_python_does_not_write_are_quoted_as_nothing():
    assert redact(10**5000) == ""


@pytest.mark.parametrize(
    "text",
    [
        "IP 10.0.0.1: 919876543210",
        "919876543210: 10.0.0.1",
        "10.0.0.1 919876543210",
        "9198:7654:3210::1",
        "x" * 9_995 + "919876543210",
        " " * 20_000 + "919876543210",
        "::1%919876543210",
    ],
)
def test_an_address_beside_a_number_does_not_hide_the_number(text):
    shown = redact(text)
    assert not {"919876", "987654", "7654"} & {shown[start : start + 6] for start in range(len(shown))}
    assert "9198" not in shown


def test_a_long_text_takes_no_long_time():
    for text in ("1" * 10**6 + "x", "//" * 10**5, "1-" * 10**5 + "x", "//x@" * 10**5):
        assert len(redact(text)) <= 200


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("203.0.113.45", "203.0.113.45"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::1%\n\x1b[31m sk_live_x 919876543210", "::1"),
        ("203.0.113.45 ", None),
        (None, None),
        (5, None),
        ("<script>", None),
        (["::1"], None),
    ],
)
def test_an_ip_address_is_written_anew_without_its_scope(value, address):
    assert ip_address(value) == address


def test_the_key_is_redacted_before_the_text_is_cut():
    assert "sk_live" not in redact("x" * 195 + "sk_live_secret", "sk_live_secret")


def test_a_function_can_keep_its_variables_out_of_its_errors():
    @without_frames(KeyError)
    def fails(secret):
        try:
            int(secret)
        except ValueError:
            raise KeyError("no") from None

    with pytest.raises(KeyError) as raised:
        fails("hush")
    assert shown_in_frames(raised.value, "hush") == []
    assert raised.value.__context__ is None


def test_nor_does_a_stop_show_them_but_other_faults_keep_their_trace():
    class Stop(BaseException):
        pass

    @without_frames(KeyError)
    def fails(secret, kind):
        raise kind

    for kind, shown in ((Stop, []), (TypeError, ["hush"])):
        with pytest.raises(kind) as raised:
            fails("hush", kind)
        frames = [frame for frame, _ in traceback.walk_tb(raised.value.__traceback__)][1:]
        assert ["hush" for frame in frames if frame.f_locals.get("secret") == "hush"] == shown


def test_one_is_no_plural():
    assert [plural(count, "row") for count in (0, 1, 2, 1000)] == ["0 rows", "1 row", "2 rows", "1,000 rows"]
