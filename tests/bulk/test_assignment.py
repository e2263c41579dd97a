from __future__ import annotations

import pickle

import pytest

from splashify_provider.bulk.assignment import Assignment, AssignmentOutcome, check_release, check_row, label_of
from splashify_provider.exceptions import InvalidAgentEmailError, InvalidPhoneNumberError
from splashify_provider.phone_numbers import normalize_phone_number
from tests.bulk.simulation import client
from tests.conftest import ADA, BEN, PHONE

EVA = "eva@example.com"
MANY = [f"agent{index}@example.com" for index in range(11)]


class NotAvailable:
    """As pandas says that a cell is empty."""

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")


@pytest.fixture
def check():
    checker = client()
    checker.normalize_phone_number = normalize_phone_number
    return lambda row: check_row(checker, 7, row)


@pytest.fixture
def release():
    checker = client()
    checker.normalize_phone_number = normalize_phone_number
    return lambda row: check_release(checker, 7, row)


def test_a_good_row_is_an_assignment_in_the_apis_form(check):
    row = {"user_phone_number": "+1 (202) 555-0101", "agent_email": f" {ADA} ", "reason": "whatever"}
    assert check(row) == Assignment(7, PHONE, ADA)


@pytest.mark.parametrize(
    ("given", "agents"),
    [
        (None, ()),
        ("", ()),
        ("  ", ()),
        ([], ()),
        ([BEN, f" {EVA} "], (BEN, EVA)),
        ((BEN,), (BEN,)),
        (f"{BEN}, {EVA};", (BEN, EVA)),
        (f"{BEN};{EVA}\n{BEN}", (BEN, EVA)),
        (f"{BEN} {EVA}", (BEN, EVA)),
        ([ADA, BEN, "Ben@Example.com", "ADA@example.com", EVA], (BEN, EVA)),
        ([ADA, *MANY[:10], *MANY[:10]], tuple(MANY[:10])),
    ],
)
def test_who_is_next_in_line_is_a_list_or_a_cell(check, given, agents):
    item = check({"user_phone_number": PHONE, "agent_email": ADA, "fallback_agents": given})
    assert item == Assignment(7, PHONE, ADA, agents)
    assert item.agents == (ADA, *agents)


def test_many_rows_with_equal_lines_share_them(check):
    lines = {
        id(check({"user_phone_number": PHONE, "agent_email": ADA, "fallback_agents": f"{BEN}, {EVA}"}).fallback_agents)
        for _ in range(3)
    }
    assert len(lines) == 1


@pytest.mark.parametrize("row", ["+1 (202) 555-0101", {"user_phone_number": PHONE, "agent_email": "x"}])
def test_a_release_is_a_number_or_a_row_with_one(release, row):
    assert release(row) == Assignment(7, PHONE, None)


@pytest.mark.parametrize("row", ["12", None, {}, {"user_phone_number": ""}, 5, NotAvailable()])
def test_any_other_release_is_invalid(release, row):
    outcome = release(row)
    assert (outcome.outcome, outcome.agent_email) == ("invalid", None)
    assert isinstance(outcome.error, InvalidPhoneNumberError)


@pytest.mark.parametrize(
    ("moves", "releases", "label"),
    [
        ([{"user_phone_number": "+" + PHONE, "agent_email": ADA}], [], f"…0101 → {ADA}"),
        ([], ["+" + PHONE], "…0101 released"),
        ([], [{"user_phone_number": PHONE}], "…0101 released"),
        ([{}] * 1500, [], "1,500 moves"),
        ([], [PHONE] * 12, "12 releases"),
        ([{}], [PHONE], "1 move, 1 release"),
        ([], [], "nothing"),
        ([{"agent_email": "919876543210"}], [], "… → …3210"),
        (["919876543210"], [], "…3210 → None"),
    ],
)
def test_a_few_words_say_what_a_batch_is_to_do(moves, releases, label):
    assert label_of(moves, releases) == label


@pytest.mark.parametrize(
    ("row", "error", "why"),
    [
        ({"user_phone_number": 10**5000, "agent_email": ADA}, InvalidPhoneNumberError, ""),
        ({"user_phone_number": PHONE, "agent_email": 10**5000}, InvalidAgentEmailError, ""),
        ({"user_phone_number": PHONE, "agent_email": NotAvailable()}, InvalidAgentEmailError, ""),
        ({"user_phone_number": NotAvailable(), "agent_email": ADA}, InvalidPhoneNumberError, ""),
        ({"user_phone_number": "12", "agent_email": ADA}, InvalidPhoneNumberError, ""),
        ({"user_phone_number": PHONE, "agent_email": ""}, InvalidAgentEmailError, "e-mail for …0101 is missing"),
        ({"user_phone_number": PHONE}, InvalidAgentEmailError, "e-mail for …0101 is missing"),
        ({"agent_email": ADA}, InvalidPhoneNumberError, ""),
        (
            {"user_phone_number": PHONE, "agent_email": ADA, "fallback_agents": [BEN, None]},
            InvalidAgentEmailError,
            "e-mail for …0101 is missing",
        ),
        (
            {"user_phone_number": PHONE, "agent_email": ADA, "fallback_agents": "ben, eva@example.com"},
            InvalidAgentEmailError,
            "'ben', not an address",
        ),
        (
            {"user_phone_number": PHONE, "agent_email": ADA, "fallback_agents": {"ben@example.com": 1}},
            InvalidAgentEmailError,
            "fallback_agents for …0101 is dict",
        ),
        (
            {"user_phone_number": PHONE, "agent_email": ADA, "fallback_agents": MANY},
            InvalidAgentEmailError,
            "more than 10 fallback agents for …0101",
        ),
        ("not a row", InvalidPhoneNumberError, "It is str, not a mapping"),
        (None, InvalidPhoneNumberError, "It is NoneType"),
    ],
)
def test_any_other_row_is_invalid_and_says_why(check, row, error, why):
    outcome = check(row)
    assert (outcome.position, outcome.outcome, type(outcome.error)) == (7, "invalid", error)
    assert outcome.message == outcome.error.message
    assert why in outcome.message
    assert "Nothing was sent" in outcome.message


def test_neither_form_shows_a_whole_number_nor_keeps_frames(check):
    outcome = check({"user_phone_number": PHONE, "agent_email": ""})
    assert PHONE not in repr(outcome) + repr(Assignment(1, PHONE, ADA)) + outcome.message
    assert outcome.error.__traceback__ is None


def test_both_survive_pickling():
    for item in (Assignment(1, PHONE, ADA), AssignmentOutcome(1, PHONE, ADA, "assigned", "done")):
        assert pickle.loads(pickle.dumps(item)) == item
