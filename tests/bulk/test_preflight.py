from __future__ import annotations

import pytest

from splashify_provider.bulk import preflight
from splashify_provider.bulk.preflight import check_rows
from splashify_provider.exceptions import SplashifyConfigurationError
from splashify_provider.phone_numbers import normalize_phone_number
from tests.bulk.simulation import client
from tests.conftest import ADA, BEN, number, rows


class Log:
    def __init__(self):
        self.errors, self.warnings = [], []
        self.error = lambda text, *values: self.errors.append(text % values)
        self.warning = lambda text, *values: self.warnings.append(text % values)


@pytest.fixture
def check():
    checker = client()
    checker.normalize_phone_number = normalize_phone_number
    return lambda given, on_tick=lambda: None, **options: check_rows(checker, given, on_tick, **options)


TOO_SHORT = {"user_phone_number": "12", "agent_email": ADA}


def test_each_number_is_kept_once_with_its_first_row(check):
    again = {"user_phone_number": "+1 (202) 555-0007", "agent_email": " Ada@Example.com "}
    checked = check([*rows(7), *rows(8), again, TOO_SHORT])
    assert [(item.position, item.user_phone_number) for item in checked.assignments.values()] == [
        (1, number(7)),
        (2, number(8)),
    ]
    assert [(item.position, first.position) for item, first in checked.duplicates] == [(3, 1)]
    assert [outcome.position for outcome in checked.invalid] == [4]
    assert (checked.total, checked.conflicts) == (4, [])


def test_all_bad_rows_are_named_at_once_with_position_and_reason(check):
    bad = [
        *rows(1),
        {"user_phone_number": "9876543210", "agent_email": ADA},
        *rows(2, agent=""),
        {"agent_email": ADA},
        None,
        *rows(3, agent=ADA),
        *rows(3, agent=BEN),
    ]
    log = Log()
    with pytest.raises(
        SplashifyConfigurationError, match=r"5 of 7 rows can't be sent, so nothing was sent\."
    ) as raised:
        check(bad).refuse_bad_rows(log, "fail")
    assert [line.split(":")[0].split(" (")[0] for line in log.errors] == ["Row 2", "Row 3", "Row 4", "Row 5", "Row 7"]
    for position, why in [
        (2, "…3210"),
        (3, "e-mail for …0002 is missing"),
        (4, "missing"),
        (5, "NoneType"),
        (7, "row 6 gives"),
    ]:
        assert (why in raised.value.reason) is (position < 5)  # the first three
        assert any(line.startswith(f"Row {position}") and why in line for line in log.errors)
    assert raised.value.reason.endswith("… and 2 more; the log has the first thousand.")
    assert raised.value.remedy.startswith("Correct them, then clear this task (on_invalid='skip' goes on without")
    assert "release()" in log.errors[1]  # each line has its own remedy
    assert "9876543210" not in str(raised.value) + str(log.errors)


def test_two_agents_for_one_number_are_refused_even_where_invalid_rows_are_skipped(check):
    log = Log()
    clash = [{"user_phone_number": "+1 202 555 0003", "agent_email": ADA}, *rows(3, agent=BEN)]
    with pytest.raises(SplashifyConfigurationError, match=r"^1 of 1,502 rows can't be sent") as raised:
        check([*[TOO_SHORT] * 1500, *clash]).refuse_bad_rows(log, "skip")
    assert f"Row 1502 (…0003): for {BEN}, but row 1501 gives the same number to {ADA}." in raised.value.reason
    assert "Row 1 " not in raised.value.reason
    assert "not where one number is for two agents" in raised.value.remedy
    assert len(log.warnings) == 1000


def test_invalid_rows_may_be_left_out(check):
    log = Log()
    check([*rows(1), TOO_SHORT]).refuse_bad_rows(log, "skip")
    assert log.errors == []
    assert log.warnings[0].startswith("Row 2 (…12): ")


def test_they_may_also_be_left_out_where_nothing_else_is_left(check):
    checked, log = check([TOO_SHORT]), Log()
    checked.refuse_bad_rows(log, "continue")
    assert (len(log.warnings), log.errors) == (1, [])
    with pytest.raises(SplashifyConfigurationError):
        checked.refuse_bad_rows(log, "skip")


class TestReleases:
    def test_their_positions_count_on(self, check):
        numbers = ["+" + number(2), {"user_phone_number": "+" + number(3), "agent_email": ADA}, None, "+" + number(2)]
        checked = check([*rows(1), TOO_SHORT], releases=numbers)
        assert [(item.position, item.agent_email) for item in checked.assignments.values()] == [
            (1, ADA),
            (3, None),
            (4, None),
        ]
        assert [outcome.position for outcome in checked.invalid] == [2, 5]
        assert [(item.position, first.position) for item, first in checked.duplicates] == [(6, 3)]
        assert checked.total == 6

    def test_a_number_in_both_is_a_conflict(self, check):
        with pytest.raises(SplashifyConfigurationError) as raised:
            check(rows(1, 2), releases=["+" + number(2)]).refuse_bad_rows(Log(), "continue")
        assert f"Row 3 (…0002): to be released, but row 2 gives the same number to {ADA}." in raised.value.reason

    def test_a_blank_agent_is_none(self, check):
        assert len(check(rows(1, agent="")).invalid) == 1


def test_who_is_next_in_line_may_be_ignored(check):
    row = {**rows(1)[0], "fallback_agents": "nobody"}
    assert len(check([row]).invalid) == 1
    assert check([row], with_fallbacks=False).assignments[number(1)].fallback_agents == ()


def test_one_row_is_no_plural(check):
    with pytest.raises(SplashifyConfigurationError, match=r"^1 of 1 row can't be sent"):
        check([TOO_SHORT]).refuse_bad_rows(Log(), "fail")


def test_thousands_of_bad_rows_make_a_short_error(check):
    with pytest.raises(SplashifyConfigurationError, match="and 4,997 more; the log has the first thousand") as raised:
        check([TOO_SHORT] * 5000).refuse_bad_rows(Log(), "fail")
    assert len(str(raised.value)) < 6000


def test_an_endless_source_is_not_read_for_ever(check, monkeypatch):
    monkeypatch.setattr(preflight, "MOST_ROWS", 2000)
    read = []

    def endless():
        while True:
            read.append(1)
            yield TOO_SHORT

    with pytest.raises(SplashifyConfigurationError, match="more than 2,000 rows"):
        check(endless())
    assert len(read) == 2001


def test_a_stop_is_noticed_within_a_thousand_rows(check):
    read = []

    def many():
        for _ in range(10_000):
            read.append(1)
            yield TOO_SHORT

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(many(), stop)
    assert len(read) == 1000


def test_rows_are_small_to_keep(check):
    checked = check(iter(SimpleRow(index) for index in range(3)))
    agents = {id(item.agent_email) for item in checked.assignments.values()}
    assert len(agents) == 1


class SimpleRow(dict):
    """A row as a CSV file gives it: each of its texts is a new one."""

    def __init__(self, index):
        super().__init__(user_phone_number="+" + number(index), agent_email="".join(["ada@", "example.com"]))
