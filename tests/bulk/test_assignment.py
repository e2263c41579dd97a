from __future__ import annotations

import pickle

import pytest

from splashify_provider.bulk.assignment import Assignment, AssignmentOutcome, check_row
from splashify_provider.exceptions import InvalidAgentEmailError, InvalidPhoneNumberError
from splashify_provider.phone_numbers import normalize_phone_number
from tests.bulk.simulation import client
from tests.conftest import ADA, PHONE


class NotAvailable:
    """As pandas says that a cell is empty."""

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")


@pytest.fixture
def check():
    checker = client()
    checker.normalize_phone_number = normalize_phone_number
    return lambda row: check_row(checker, 7, row)


def test_a_good_row_is_an_assignment_in_the_apis_form(check):
    row = {"user_phone_number": "+1 (202) 555-0101", "agent_email": f" {ADA} ", "reason": "whatever"}
    assert check(row) == Assignment(7, PHONE, ADA)


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
