from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from splashify_provider.exceptions import SplashifyConfigurationError
from splashify_provider.routing import Conversation, RoutingError, plan_assignments
from tests.routing.helpers import AT, HOUR, agents_of, chat, email, phone, shift

TIMES = ((AT - HOUR).isoformat(), (AT + HOUR).isoformat())


def test_rows_come_as_mappings():
    rows = [{"user_phone_number": 12025550101, "AGENT_EMAIL": None, "status": "open", "language": float("nan")}]
    plan = plan_assignments(rows, [{"agent_email": email("ada"), "start": AT, "end": AT + HOUR}], at=AT)
    assert plan.to_assignments() == [{"user_phone_number": "12025550101", "agent_email": email("ada")}]


def test_every_bad_row_is_named_by_its_position_counted_from_1():
    rows = [{"user_phone_number": ""}, chat(1), {"phone": 1}, "12025550101", {"user_phone_number": "unknown"}]
    with pytest.raises(RoutingError) as raised:
        plan_assignments(rows, [shift("ada")], at=AT)
    assert raised.value.reason == "4 problems in the conversations:"
    assert raised.value.problems == [
        "conversation 1: user_phone_number is missing",
        "conversation 3: user_phone_number is missing (its columns: phone)",
        "conversation 4 is a str, not a mapping: rows need column names (see fetch_rows_handler)",
        "conversation 5: user_phone_number has no digits",
    ]


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("ada@x", "'ada@x', not an e-mail address"),
        ("ada@localhost", "'ada@localhost', not an e-mail address"),
        ("m\u00fcller@example.com", r"'m\xfcller@example.com', not an e-mail address in ASCII"),
        ("\u212aim@ex\u017fample.com", r"'\u212aim@ex\u017fample.com', not an e-mail address in ASCII"),
    ],
)
@pytest.mark.parametrize("column", ["agent_email", "owner_email", "backup_email"])
def test_an_address_the_sender_would_refuse_is_refused_when_planning(column, address, shown):
    rows = [{"user_phone_number": phone(1)}, {"user_phone_number": phone(2), column: address}]
    with pytest.raises(RoutingError) as raised:
        plan_assignments(rows, [shift("ada")], at=AT)
    assert raised.value.problems == [f"conversation 2: {column} is {shown} (in the row of …0002)"]


def test_a_customer_with_two_holders_is_an_error_in_whatever_notation():
    rows = [Conversation("+44 (0)20 7946 0958", email("ada")), chat(1), Conversation("442079460958", email("ben"))]
    with pytest.raises(RoutingError) as raised:
        plan_assignments(rows, [shift("ada")], at=AT)
    assert str(raised.value) == (
        "1 contradiction between conversations:\n  conversation 3: agent_email is ben@example.com, but the same "
        "customer (…0958) has ada@example.com in conversation 1"
    )


def test_national_numbers_are_told_apart_by_the_connections_region():
    rows = [Conversation("098765 43210", email("ada")), Conversation("+91 98765 43210", email("ben"))]
    assert len(plan_assignments(rows, [shift("ada")], at=AT).kept) == 1
    with pytest.raises(RoutingError, match=r"…3210"):
        plan_assignments(rows, [shift("ada")], at=AT, default_region="IN")


def test_a_region_that_is_none_says_so():
    with pytest.raises(SplashifyConfigurationError, match="default_region 'XX' is not a region"):
        plan_assignments([chat(1)], [shift("ada")], at=AT, default_region="XX")


def test_the_same_row_twice_is_planned_once():
    rows = [Conversation("12025550101", "ADA@example.com"), Conversation("+1 202 555 0101", email("ada"))]
    for order in (rows, rows[::-1]):
        plan = plan_assignments(order, [shift("ben")], at=AT)
        assert [move.user_phone_number for move in plan.moves] == ["+1 202 555 0101"]


def test_a_number_that_cant_be_sent_keeps_nobody_else_from_an_agent():
    plan = plan_assignments([Conversation("555 0101"), chat(1)], [shift("ada")], at=AT)
    assert len(plan.moves) == 2


def test_an_agent_without_an_address_is_an_error_wherever_they_stand():
    row = {"user_phone_number": "12025550101"}
    rows = [{**row, name: "Ada Lindqvist"} for name in ("agent_email", "owner_email", "backup_email")]
    with pytest.raises(RoutingError) as raised:
        plan_assignments([*rows, {**row, "agent_email": "a@x.org\nERROR all is lost"}], [shift("ada")], at=AT)
    assert [problem.split(" is ")[0] for problem in raised.value.problems] == [
        "conversation 1: agent_email", "conversation 2: owner_email", "conversation 3: backup_email",
        "conversation 4: agent_email",
    ]  # fmt: skip
    assert len(str(raised.value).splitlines()) == 5


def test_two_customers_are_not_taken_for_one_because_one_number_cant_be_read():
    rows = [Conversation("+65 8123 4567", email("ada")), Conversation("65812 34567", email("ben"))]
    plan = plan_assignments(rows, [shift("ada")], at=AT)
    assert sorted(agents_of(plan)) == ["+65 8123 4567", "65812 34567"]


def test_rows_of_sqlite_have_names_too():
    with closing(sqlite3.connect(":memory:")) as database:
        database.row_factory = sqlite3.Row
        roster = database.execute("SELECT 'ada@example.com' AS agent_email, ? AS 'start', ? AS 'end'", TIMES)
        rows = database.execute("SELECT '12025550101' AS user_phone_number, NULL AS agent_email, 'x' AS note")
        assert plan_assignments(rows, roster, at=AT).moves[0].agent_email == email("ada")


@pytest.mark.parametrize("rows", [None, "12025550101", {"user_phone_number": "1"}, chat(1), 7])
def test_what_is_no_list_says_so(rows):
    with pytest.raises(RoutingError, match=r"conversations is an? \w+, not a list of rows"):
        plan_assignments(rows, [shift("ada")], at=AT)


def test_texts_of_others_are_shown_on_one_line_and_without_numbers():
    plan = plan_assignments([chat(1, language="+12025550177\nERROR")], [shift("ada")], at=AT)
    assert "nobody on duty speaks …0177 ERROR;" in plan.table()


def test_an_address_is_one_agent_however_it_is_typed():
    rows = [Conversation(phone(1), "ZOE@example.com"), Conversation(phone(2), "zoe@example.com")]
    plan = plan_assignments(rows, [shift("ada")], at=AT)
    assert plan.summary()["agents"]["ZOE@example.com"]["before"] == 2
    same = [replace(row, user_phone_number=phone(1)) for row in rows]
    assert plan_assignments(same, [shift("ada")], at=AT) == plan_assignments(same[::-1], [shift("ada")], at=AT)


def test_no_phone_number_is_shown():
    rows = [chat(1, "ada"), chat(2), chat(3, "zoe")]
    plan = plan_assignments(rows, [shift("ada")], at=AT)
    shown = f"{rows} {plan} {plan.table()} {plan.markdown()} {json.dumps(plan.summary())}"
    assert "555" not in shown
    assert "…0002" in plan.table()
