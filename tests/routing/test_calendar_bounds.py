"""Whoever can write into a calendar can't hold a worker, and gets a RoutingError that names the event."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone

import pytest

from splashify_provider.routing import RoutingError, shifts_from_ical
from tests.routing import calendar_fuzz

START = datetime(2026, 11, 24, tzinfo=timezone.utc)
END = START + timedelta(days=1)
MINUTES = ",".join(map(str, range(60)))
TIMES = "DTSTART:20261101T060000Z\r\nDTEND:20261101T140000Z\r\n"
STANDARD = (
    "BEGIN:STANDARD\r\nDTSTART:19701025T030000\r\nTZOFFSETFROM:+0200\r\nTZOFFSETTO:+0100\r\n{}\r\nEND:STANDARD\r\n"
)


def calendar(*events, head="", title="Night ada@example.com"):
    body = "".join(
        f"BEGIN:VEVENT\r\nUID:{number}@x\r\nSUMMARY:{title}\r\n{event}\r\nEND:VEVENT\r\n"
        for number, event in enumerate(events)
    )
    return f"BEGIN:VCALENDAR\r\nVERSION:2.0\r\n{head}{body}END:VCALENDAR\r\n"


def zone(*names, rule=""):
    lines = "".join(f"TZID:{name}\r\n" for name in names)
    return f"BEGIN:VTIMEZONE\r\n{lines}{STANDARD.format(rule)}END:VTIMEZONE\r\n"


def refused(text):
    with pytest.raises(RoutingError) as raised:
        shifts_from_ical(text, START, END, timezone="UTC")
    return str(raised.value)


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (TIMES + "RRULE:FREQ=DAILY;INTERVAL=0", "INTERVAL of 0"),
        (TIMES + "RRULE:FREQ=DAILY;INTERVAL=1001", "INTERVAL of 1001"),
        (TIMES + "RRULE:FREQ=DAILY;INTERVAL=" + "9" * 5000, "can't be read"),
        ("DTSTART:02061101T060000Z\r\nDTEND:02061101T070000Z\r\nRRULE:FREQ=HOURLY", "too many steps since its start"),
        ("DTSTART:20001101T060000Z\r\nDTEND:20001101T070000Z\r\nRRULE:FREQ=HOURLY;COUNT=100000000", "too many steps"),
        (TIMES + f"RRULE:FREQ=DAILY;BYMINUTE={MINUTES};BYSECOND={MINUTES}", "3,600 times a day"),
        (TIMES + f"RRULE:FREQ=HOURLY;BYMINUTE={MINUTES}", "1,440 times a day"),
        (TIMES + "RRULE:FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30", "too many steps"),
        (TIMES + "RRULE:FREQ=MONTHLY;BYDAY=MO;BYSETPOS=9", "too many steps"),
        (TIMES + "RRULE:FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "too many steps"),
        (TIMES + "RRULE:FREQ=YEARLY;BYEASTER=999", "its rule can't be read"),
        (TIMES + "RRULE:FREQ=DAILY;BYYEARDAY=1", "BYYEARDAY, which DAILY does not allow"),
        (TIMES + "RRULE:FREQ=DAILY;BYSETPOS=2", "BYSETPOS, which DAILY does not allow"),
        (TIMES + "\r\n".join(["RDATE:" + ",".join(["20261103T060000Z"] * 5000)] * 3), "15,000 of RDATE"),
        (TIMES.replace("01T", "24T") + "\r\n".join(["ATTENDEE:mailto:a@b.cd"] * 1001), "1,001 of ATTENDEE"),
        ("DTSTART:20261101T060000Z\r\nDURATION:P99999999D", "out of range"),
    ],
)
def test_an_event_that_asks_for_too_much_is_refused_by_its_name(event, why):
    text = refused(calendar(event))
    assert "'Night ada@example.com' (" in text
    assert why in text


def test_many_rules_take_no_longer_than_a_few(monkeypatch):
    monkeypatch.setattr("splashify_provider.routing.calendar_bounds._MOST_STEPS_IN_ALL", 1_000)
    series = "DTSTART:20261001T060000Z\r\nDTEND:20261001T140000Z\r\nRRULE:FREQ=DAILY"
    assert shifts_from_ical(calendar(*[series] * 5), START, END)
    assert "rules take too many steps in all. Export a shorter period" in refused(calendar(*[series] * 20))


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (zone("X", rule="RRULE:BYMONTH=10"), "zone 'X' changes its offset by BYMONTH=10"),
        (zone("X", rule="RRULE:FREQ=SECONDLY"), "FREQ=SECONDLY"),
        (zone("X", rule=f"RRULE:FREQ=YEARLY;BYHOUR=1;BYMINUTE={MINUTES}"), "not on a day of every year"),
        (zone("X", "Y"), "zone 'X' has 2 names"),
        (
            zone("X").replace("END:V", STANDARD.format("RRULE:FREQ=YEARLY") * 401 + "END:V"),
            "401 of RRULE; at most 400",
        ),
        (zone("X", rule="RDATE:" + ",".join(["19801025T030000"] * 2001)), "2,001 of RDATE; at most 2,000"),
        (zone(), "zone 'without a name' has 0 names"),
    ],
)
def test_a_zone_whose_definition_can_not_be_read_is_named(head, why):
    assert why in refused(calendar(TIMES, head=head))


@pytest.mark.parametrize(
    "text",
    [
        "",
        b"\xff\xfe",
        "BEGIN:VCALENDAR",
        "BEGIN:VCALENDAR\r\n" + "BEGIN:VEVENT\r\n" * 5000 + "END:VEVENT\r\n" * 5000 + "END:VCALENDAR\r\n",
        calendar(TIMES, head="BEGIN:VTIMEZONE\r\n" * 5000),
        calendar(TIMES, head="BEGIN:VTIMEZONE\r\nTZID:X\r\nBEGIN:STANDARD\r\nEND:STANDARD\r\nEND:VTIMEZONE\r\n"),
        calendar(TIMES + "ATTENDEE" + ";X=1" * 60_000 + ":mailto:a@b.example"),
        "BEGIN:VCALENDAR\r\n" + "x" * 10_000_000,
        calendar(
            TIMES + "RRULE:FREQ=DAILY",
            *["DTSTART:20261101T060000Z\r\nUID:0@x\r\nRECURRENCE-ID:20261101T060000Z"] * 2001,
        ),
    ],
)
def test_text_that_makes_no_sense_is_refused(text):
    refused(text)


@pytest.mark.parametrize("title", ["a" * 80_000, "a.@" * 50_000, "a@" + "a-" * 50_000, "ada " * 20_000])
def test_a_title_of_any_length_is_looked_at_quickly_and_shown_short(title):
    text = refused(calendar(TIMES.replace("01T", "24T"), title=title))
    assert "neither an e-mail address nor a name" in text
    assert len(text) < 500


def test_what_shifts_are_not_made_of_is_not_read():
    large = "CATEGORIES:" + "," * 2_000_000 + "\r\nX-SPLASHIFY-SECONDS:7200"
    event = f"DTSTART:20261124T000000Z\r\nDTEND:20261124T080000Z\r\n{large}"
    (shift,) = shifts_from_ical(calendar(event), START, END)
    assert shift.end - shift.start == timedelta(hours=8)


def test_more_shifts_than_anybody_works_are_refused(monkeypatch):
    monkeypatch.setattr("splashify_provider.routing.calendars._MOST_SHIFTS", 10)
    people = "\r\n".join(f"ATTENDEE:mailto:a{number}@b.example" for number in range(6))
    event = f"DTSTART:20261124T000000Z\r\nDTEND:20261124T000500Z\r\nRRULE:FREQ=HOURLY\r\n{people}"
    assert "more than 10 shifts in this period, the last one read of 'Night" in refused(calendar(event))


def test_a_number_in_a_title_is_masked():
    assert "919876543210" not in refused(calendar(TIMES + "RRULE:FREQ=DAILY;INTERVAL=0", title="Call 919876543210"))


def test_an_old_calendar_with_many_series_is_read():
    series = "DTSTART:20200101T060000Z\r\nDTEND:20200101T140000Z\r\nRRULE:FREQ=WEEKLY;BYDAY=TU"
    assert len(shifts_from_ical(calendar(*[series] * 100), START, END)) == 100


@pytest.mark.parametrize(
    "rule",
    [
        "FREQ=YEARLY;BYMONTH=11;BYDAY=4TU",
        "FREQ=YEARLY;BYYEARDAY=328",
        "FREQ=YEARLY;BYWEEKNO=48;BYDAY=TU",
        "FREQ=MONTHLY;BYDAY=TU;BYSETPOS=4",
        "FREQ=WEEKLY;INTERVAL=1;BYDAY=TU",
        "FREQ=DAILY;BYHOUR=6,14,22",
        "FREQ=HOURLY;INTERVAL=8",
    ],
)
def test_rules_that_shifts_recur_by_are_read(rule):
    event = f"DTSTART:20231128T060000Z\r\nDTEND:20231128T070000Z\r\nRRULE:{rule}"
    assert shifts_from_ical(calendar(event), START, END)


@pytest.mark.parametrize("seeds", [range(300), pytest.param(range(300, 5000), marks=pytest.mark.slow)], ids=len)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of icalendar, on zones of vendors
def test_any_calendar_gives_shifts_or_a_refusal_that_shows_no_number(seeds):
    for seed in seeds:
        found = calendar_fuzz.read(calendar_fuzz.calendar(random.Random(seed)), random.Random(seed))
        assert "202 555" not in str(found)
        assert "2025550101" not in str(found)
