from __future__ import annotations

import pytest

from splashify_provider.agent_email import (
    find_agent_emails,
    is_agent_email,
    validate_agent_email,
    validate_fallback_agents,
)
from splashify_provider.exceptions import InvalidAgentEmailError

PHONE = "919876543210"


@pytest.mark.parametrize(
    "email",
    [
        "ada@example.com",
        "Ada.Byron+chat@sub-1.example.co.uk",
        "o'neil@example.com",
        "1@2.com",
        f"{'a' * 64}@example.com",
    ],
)
def test_an_address_is_returned_as_it_was_typed(email):
    assert validate_agent_email(f" {email}\n") == email


@pytest.mark.parametrize(
    "email",
    [
        "ada@x",
        "ada@localhost",
        "müller@example.com",
        "ada@exämple.com",
        "\u212aim@ex\u017fample.com",  # letters that ignoring case would take for k and s
        "ada@example..com",
        "ada@-example.com",
        "ada@example.com.",
        "ada@@example.com",
        f"{'a' * 65}@example.com",
        f"ada@{'a' * 64}.com",
        f"ada@{'a.' * 125}com",
        "ada@example.com\x00",
    ],
)
def test_anything_else_is_refused(email):
    assert not is_agent_email(email)
    with pytest.raises(InvalidAgentEmailError, match="not an address. Nothing was sent"):
        validate_agent_email(email)


def test_an_invisible_character_is_shown():
    with pytest.raises(InvalidAgentEmailError, match=r"\\\\u200bada@example.com"):
        validate_agent_email("\u200bada@example.com")


def test_a_missing_one_names_the_customer_by_the_last_four_digits():
    with pytest.raises(InvalidAgentEmailError, match="The agent's e-mail for …3210 is missing") as raised:
        validate_agent_email(" ", PHONE)
    assert PHONE not in str(raised.value)
    with pytest.raises(InvalidAgentEmailError, match="The agent's e-mail is missing"):
        validate_agent_email(None)


def test_a_phone_number_in_its_place_is_masked():
    with pytest.raises(InvalidAgentEmailError) as raised:
        validate_agent_email("+91 98765 43210")
    assert "…3210" in str(raised.value)
    assert "98765" not in str(raised.value)


def test_addresses_are_found_in_a_title_in_order():
    title = "Night: Ben <ben@example.com>, ada@example.com (not x@y, not müller@@example.com)"
    assert find_agent_emails(title) == ["ben@example.com", "ada@example.com"]


def test_searching_a_long_title_takes_no_long_time():
    for title in ("a" * 200_000, "a@" * 100_000, "a." * 100_000, "a@a." * 50_000, "a@" + "a-" * 100_000):
        find_agent_emails(title)


class TestWhoIsNextInLine:
    @pytest.mark.parametrize(
        ("given", "agents"),
        [
            (None, ()),
            (" ,; ", ()),
            (("ben@example.com", " eva@example.com"), ("ben@example.com", "eva@example.com")),
            ("ben@example.com;eva@example.com, ben@example.com", ("ben@example.com", "eva@example.com")),
            (["ADA@example.com", "ben@example.com", "Ben@Example.com"], ("ben@example.com",)),
        ],
    )
    def test_each_is_an_address_once_and_not_the_first_one(self, given, agents):
        assert validate_fallback_agents(given, "ada@example.com") == agents

    @pytest.mark.parametrize(
        ("given", "why"),
        [
            (["ben@example.com", ""], "e-mail for …0101 is missing"),
            ("None", "'None', not an address"),
            (7, "fallback_agents for …0101 is int"),
            ({"ben@example.com"}, "is set, not a list"),
            ([f"agent{index}@example.com" for index in range(11)], "more than 10 fallback agents for …0101"),
            ("x" * 10**6, "not an address"),
        ],
    )
    def test_anything_else_is_refused(self, given, why):
        with pytest.raises(InvalidAgentEmailError, match=why) as raised:
            validate_fallback_agents(given, "ada@example.com", "12025550101")
        assert "Nothing was sent." in raised.value.reason
        assert raised.value.remedy
        assert len(str(raised.value)) < 500
