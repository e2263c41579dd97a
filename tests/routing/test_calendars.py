from __future__ import annotations

import builtins
import re
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from splashify_provider.routing import RoutingError, on_duty, shifts_from_ical

UTC = timezone.utc
BERLIN = ZoneInfo("Europe/Berlin")
START = datetime(2026, 10, 19, tzinfo=UTC)  # the week in which Berlin's clocks go back, on Sunday the 25th
END = START + timedelta(days=7)


def calendar(*events, head=""):
    body = "".join(f"BEGIN:VEVENT\nUID:{number}\n{event}\nEND:VEVENT\n" for number, event in enumerate(events))
    return f"BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:-//test\n{head}{body}END:VCALENDAR\n".replace("\n", "\r\n")


def read(*events, head="", **options):
    return [
        (shift.agent_email, shift.start.astimezone(BERLIN).strftime("%a %H:%M"), shift.end - shift.start)
        for shift in shifts_from_ical(calendar(*events, head=head), START, END, **options)
    ]


def hours(number):
    return timedelta(hours=number)


# As PagerDuty's feeds have it: in UTC, the attendee without a scheme, one event a shift.
PAGERDUTY = """DTSTART;VALUE=DATE-TIME:20261019T060000Z
DTEND;VALUE=DATE-TIME:20261020T060000Z
SUMMARY:On Call - Ada Lindqvist - Support Primary
URL:https://acme.pagerduty.example/schedules#PI7DH85
ATTENDEE:ada@example.com"""
# As Opsgenie's: the address in the title.
OPSGENIE = """DTSTART:20261020T060000Z
DTEND:20261021T060000Z
SUMMARY:Support_schedule: ben@example.com
DESCRIPTION:On call"""
# As Google exports it: a series in a zone it defines, with a date taken out and one moved.
GOOGLE_ZONE = """BEGIN:VTIMEZONE
TZID:Europe/Berlin
X-LIC-LOCATION:Europe/Berlin
BEGIN:DAYLIGHT
TZOFFSETFROM:+0100
TZOFFSETTO:+0200
TZNAME:CEST
DTSTART:19700329T020000
RRULE:FREQ=YEARLY;BYMONTH=3;BYDAY=-1SU
END:DAYLIGHT
BEGIN:STANDARD
TZOFFSETFROM:+0200
TZOFFSETTO:+0100
TZNAME:CET
DTSTART:19701025T030000
RRULE:FREQ=YEARLY;BYMONTH=10;BYDAY=-1SU
END:STANDARD
END:VTIMEZONE
"""
GOOGLE = """DTSTART;TZID=Europe/Berlin:20260907T220000
DTEND;TZID=Europe/Berlin:20260908T060000
RRULE:FREQ=WEEKLY;BYDAY=MO,WE,SA
EXDATE;TZID=Europe/Berlin:20261019T220000
ORGANIZER;CN=Support:mailto:c_1f2e3d@group.calendar.google.com
ATTENDEE;CUTYPE=INDIVIDUAL;ROLE=REQ-PARTICIPANT;PARTSTAT=ACCEPTED;CN=Cleo;
 X-NUM-GUESTS=0:mailto:cleo@exam
 ple.com
ATTENDEE;CUTYPE=INDIVIDUAL;PARTSTAT=DECLINED;CN=Dan:mailto:dan@example.com
ATTENDEE;CUTYPE=RESOURCE;PARTSTAT=ACCEPTED;CN=Desk:mailto:c_188@resource.calendar.google.com
SUMMARY:Night shift"""
GOOGLE_MOVED = """DTSTART;TZID=Europe/Berlin:20261021T230000
DTEND;TZID=Europe/Berlin:20261022T040000
RECURRENCE-ID;TZID=Europe/Berlin:20261021T220000
ATTENDEE:mailto:ben@example.com
SUMMARY:Night shift"""


def test_pagerdutys_and_opsgenies_feeds():
    assert read(PAGERDUTY, OPSGENIE) == [
        ("ada@example.com", "Mon 08:00", hours(24)),
        ("ben@example.com", "Tue 08:00", hours(24)),
    ]


def test_googles_series_with_a_date_taken_out_one_moved_and_the_clocks_changing():
    events = calendar(GOOGLE, GOOGLE_MOVED.replace("SUMMARY", "UID:0\nSUMMARY"), head=GOOGLE_ZONE)
    events = events.replace("UID:1\r\n", "")  # the moved one belongs to the series
    found = shifts_from_ical(events, START, END)
    assert [
        (shift.agent_email, shift.start.astimezone(BERLIN).strftime("%a %d %H:%M"), shift.end - shift.start)
        for shift in found
    ] == [
        ("ben@example.com", "Wed 21 23:00", hours(5)),
        ("cleo@example.com", "Sat 24 22:00", hours(9)),
    ]
    assert on_duty(found, datetime(2026, 10, 25, 5, 30, tzinfo=BERLIN)) == ["cleo@example.com"]


def test_a_series_in_utc_stays_in_utc_whatever_zone_the_calendar_shows_itself_in():
    series = "DTSTART:20261024T060000Z\nDTEND:20261024T140000Z\nRRULE:FREQ=DAILY;COUNT=2\nSUMMARY:ada@example.com"
    assert read(series, head="X-WR-TIMEZONE:Europe/Berlin\n") == [
        ("ada@example.com", "Sat 08:00", hours(8)),
        ("ada@example.com", "Sun 07:00", hours(8)),
    ]


@pytest.mark.parametrize(
    ("head", "options"), [("X-WR-TIMEZONE:Europe/Berlin\n", {}), ("", {"timezone": "Europe/Berlin"})]
)
def test_all_day_events_and_floating_times_are_meant_where_the_calendar_is(head, options):
    all_day = "DTSTART;VALUE=DATE:20261024\nDTEND;VALUE=DATE:20261026\nSUMMARY:ada@example.com"
    one_day = "DTSTART;VALUE=DATE:20261020\nSUMMARY:ben@example.com"
    floating = "DTSTART:20261021T090000\nDURATION:PT8H\nSUMMARY:cleo@example.com"
    assert read(all_day, one_day, floating, head=head, **options) == [
        ("ben@example.com", "Tue 00:00", hours(24)),
        ("cleo@example.com", "Wed 09:00", hours(8)),
        ("ada@example.com", "Sat 00:00", hours(49)),
    ]


def test_the_zone_asked_for_beats_the_calendars():
    event = "DTSTART;VALUE=DATE:20261020\nSUMMARY:ada@example.com"
    head = "X-WR-TIMEZONE:America/New_York\n"
    assert read(event, head=head, timezone="Europe/Berlin") == [("ada@example.com", "Tue 00:00", hours(24))]
    assert read(event, head=head) == [("ada@example.com", "Tue 06:00", hours(24))]


def test_windows_names_of_zones_are_known():
    event = "DTSTART;TZID=W. Europe Standard Time:20261020T090000\nDURATION:PT1H\nSUMMARY:ada@example.com"
    assert read(event) == [("ada@example.com", "Tue 09:00", hours(1))]


def test_a_zone_the_calendar_defines_itself_is_known():
    head = GOOGLE_ZONE.replace("TZID:Europe/Berlin", "TZID:Our office").replace("X-LIC-LOCATION:Europe/Berlin\n", "")
    event = "DTSTART;TZID=Our office:20261020T090000\nDURATION:PT1H\nSUMMARY:ada@example.com"
    assert read(event, head=head) == [("ada@example.com", "Tue 09:00", hours(1))]


def test_hours_are_hours_and_days_are_days_when_the_clocks_change():
    begin = "DTSTART;TZID=Europe/Berlin:20261024T220000\nSUMMARY:ada@example.com\n"
    assert read(f"{begin}DURATION:PT8H") == [("ada@example.com", "Sat 22:00", hours(8))]
    assert read(f"{begin}DURATION:P1D") == [("ada@example.com", "Sat 22:00", hours(25))]
    assert read(f"{begin}DTEND;TZID=Europe/Berlin:20261025T060000") == [("ada@example.com", "Sat 22:00", hours(9))]


def test_several_people_and_people_in_titles():
    both = "DTSTART:20261020T060000Z\nDTEND:20261020T070000Z\nATTENDEE:mailto:ben@x.org\nATTENDEE:MAILTO:ada@x.org"
    title = "DTSTART:20261020T080000Z\nDTEND:20261020T090000Z\nSUMMARY:ada@x.org / Ben (ben.b+team@x.co.uk)"
    assert [who for who, *_ in read(both, title)] == ["ada@x.org", "ben@x.org", "ada@x.org", "ben.b+team@x.co.uk"]


def test_names_in_titles_are_looked_up_as_whole_words():
    event = "DTSTART:20261020T060000Z\nDTEND:20261020T070000Z\nSUMMARY:On Call - Ada Lindqvist - Primary"
    agents = {"ada lindqvist": "ada@example.com", "Da": "da@example.com", "Prim": "prim@example.com"}
    assert [who for who, *_ in read(event, agents=agents)] == ["ada@example.com"]


@pytest.mark.parametrize(
    ("title", "found"),
    [
        ("Anne-Marie Dupont", "am"),
        ("Anne & Anne-Marie Dupont", "am anne"),
        ("On Call - Ada L. - Support", "al"),
        ("ZOE\u0308 (primary)", "zoe"),  # the letter and its dots apart, as macOS writes them
    ],
)
def test_the_longest_name_in_a_title_is_meant(title, found):
    event = f"DTSTART:20261020T060000Z\nDTEND:20261020T070000Z\nSUMMARY:{title}"
    agents = {
        "Anne": "anne@x.example",
        "Anne-Marie Dupont": "am@x.example",
        "Ada L.": "al@x.example",
        "Zo\u00eb": "zoe@x.example",
    }
    assert [who for who, *_ in read(event, agents=agents)] == [f"{name}@x.example" for name in found.split()]


def test_who_takes_no_part_has_no_shift():
    lines = [
        "ATTENDEE;CUTYPE=GROUP:mailto:team@x.org",
        "ATTENDEE;ROLE=NON-PARTICIPANT:mailto:boss@x.org",
        "ATTENDEE;PARTSTAT=DELEGATED:mailto:gone@x.org",
        "ATTENDEE;EMAIL=ada@x.org:/principals/1234/",
        "ATTENDEE:mailto:o&m@x.org",
    ]
    event = "\n".join(["DTSTART:20261020T060000Z", "DTEND:20261020T070000Z", *lines])
    assert [who for who, *_ in read(event)] == ["ada@x.org", "o&m@x.org"]


@pytest.mark.parametrize(
    "end", ["STATUS:cancelled\nATTENDEE:a@x.org", "ATTENDEE;PARTSTAT=DECLINED:a@x.org\nSUMMARY:a@x.org"]
)
def test_cancelled_and_declined_shifts_are_none(end):
    assert read(f"DTSTART:20261020T060000Z\nDTEND:20261020T070000Z\n{end}") == []


def test_only_shifts_that_overlap_the_period_count_and_these_whole():
    def at(start, end):
        return f"DTSTART:202610{start}00Z\nDTEND:202610{end}00Z\nSUMMARY:d{start[:2]}@x.org"

    found = read(at("18T1200", "19T0000"), at("18T2000", "19T0001"), at("25T2359", "26T1200"), at("26T0000", "26T0100"))
    assert [(who, duration) for who, _, duration in found] == [
        ("d18@x.org", timedelta(hours=4, minutes=1)),
        ("d25@x.org", timedelta(hours=12, minutes=1)),
    ]


def test_an_endless_series_that_began_long_ago_is_read_where_it_matters():
    series = "DTSTART:20060102T060000Z\nDTEND:20060102T140000Z\nRRULE:FREQ=DAILY\nSUMMARY:ada@example.com"
    assert len(read(series)) == 7


class TestRefusals:
    def problems(self, *events, head="", **options):
        with pytest.raises(RoutingError) as raised:
            read(*events, head=head, **options)
        return raised.value.problems or [str(raised.value)]

    WHO = "SUMMARY:ada@example.com"
    REMEDY = "Pass timezone=, such as 'Europe/Berlin': the calendar has none of its own either"

    def test_every_event_that_cant_be_placed_is_named(self):
        assert self.problems(
            "DTSTART:20261020T060000Z\nDTEND:20261020T070000Z\nSUMMARY:Team lunch",
            f"DTSTART:20261021T060000\nDTEND:20261021T070000\n{self.WHO}",
            f"DTSTART;VALUE=DATE:20261022\n{self.WHO}",
            f"DTSTART:20261024T060000Z\nDTEND:20261024T070000Z\n{self.WHO}",
            f"DTSTART:20261025T060000Z\nDTEND:20261025T070000Z\nATTENDEE:/principals/7\n{self.WHO}",
        ) == [
            f"'Team lunch' (2026-10-20 06:00:00+00:00): {self.NOBODY}",
            f"'ada@example.com' (2026-10-21 06:00:00): it has no time zone. {self.REMEDY}",
            f"'ada@example.com' (2026-10-22): it is all day, and a day begins where people are. {self.REMEDY}",
            "'ada@example.com' (2026-10-25 06:00:00+00:00): it invites '/principals/7', which is no e-mail address",
        ]

    NOBODY = "it invites nobody, and its title has neither an e-mail address nor a name given in agents="

    @pytest.mark.parametrize(
        ("lines", "reason"),
        [
            ("DTSTART:20261020T080000Z\nDTEND:20261020T060000Z", "its end (2026-10-20 06:00:00+00:00) is not after"),
            ("DTSTART:20261020T080000Z\nDTEND:20261020T080000Z", "its end (2026-10-20 08:00:00+00:00) is not after"),
            ("DTSTART:20261020T080000Z\nDURATION:-PT2H", "its duration (-1 day, 22:00:00) is not positive"),
            ("DTSTART:20261020T050000\nDTEND:20261020T060000Z", "its start and its end are of different kinds"),
            ("DTSTART;VALUE=DATE:20261020\nDTEND:20261020T060000Z", "its start and its end are of different kinds"),
            ("DTSTART:20261020T080000Z\nRRULE:garbage", "it recurs by FREQ=nothing"),
            ("DTSTART:20261020T080000Z\nRRULE:COUNT=3", "it recurs by FREQ=nothing"),
            ("DTSTART:20061020T080000Z\nRRULE:FREQ=MINUTELY", "it recurs by FREQ=MINUTELY"),
            ("DTSTART:20261020T080000Z\nRRULE:FREQ=SOMETIMES", "its RRULE can't be read"),
            ("DTSTART:20261020T080000Z\nEXRULE:FREQ=DAILY", "(EXRULE)"),
            ("DTSTART:20261020T080000Z\nDTSTART:20261021T080000Z", "it has more than one DTSTART"),
            ("DTSTART:20261020T080000Z\nSUMMARY:ben@example.com", "it has more than one SUMMARY"),
            ("DTSTART:20261020T080000Z\nSTATUS:CANCELLED\nSTATUS:CONFIRMED", "it has more than one STATUS"),
            ("DTSTART:yesterday", "its DTSTART can't be read"),
            ("DESCRIPTION:no start", "it has no start"),
            ("DTSTART;TZID=Mars:20261020T080000", "its zone 'Mars' is not known"),
            ("DTSTART:20261020T080000Z\nDTEND;TZID=Mars:20261020T090000", "its zone 'Mars' is not known"),
            ("DTSTART:20261020T080000Z\nRDATE;TZID=Mars:20261021T080000", "its zone 'Mars' is not known"),
            ("DTSTART:20261020T080000Z\nRRULE:FREQ=DAILY\nEXDATE;TZID=Mars:20261021T080000", "its zone 'Mars' is not"),
        ],
    )
    def test_an_event_that_would_be_read_as_something_else_is_refused(self, lines, reason):
        good = f"DTSTART:20261020T060000Z\nDTEND:20261020T070000Z\n{self.WHO}"
        problems = self.problems(good, f"{lines}\n{self.WHO}", head="X-WR-TIMEZONE:Europe/Berlin\n")
        assert reason in problems[0], problems
        assert re.match(r"'(ada|ben)@example.com' \(", problems[0])

    def test_of_two_events_with_one_uid_none_is_lost_silently(self):
        event = f"DTSTART:20261020T060000Z\nDTEND:20261020T070000Z\n{self.WHO}"
        with pytest.raises(RoutingError, match="another event has the same UID"):
            shifts_from_ical(calendar(event, event).replace("UID:1", "UID:0"), START, END)

    def test_faults_of_events_long_past_do_no_harm(self):
        old = "DTSTART;TZID=Mars:20060101T060000\nDTEND;TZID=Mars:20060101T070000\nSUMMARY:x"
        assert read(old, PAGERDUTY)

    def test_an_unknown_zone_is_not_taken_for_the_calendars(self):
        event = "DTSTART;TZID=Our office:20261020T090000\nDURATION:PT1H\nSUMMARY:ada@example.com"
        (problem,) = self.problems(event, head="X-WR-TIMEZONE:Europe/Berlin\n")
        assert "its zone 'Our office' is not known" in problem

    def test_a_zone_that_another_calendar_has_defined_is_unknown_here(self):
        event = "DTSTART;TZID=Our office:20261020T090000\nDURATION:PT1H\nSUMMARY:ada@example.com"
        read(event, head=GOOGLE_ZONE.replace("Europe/Berlin", "Our office"))
        assert "not known" in self.problems(event)[0]

    def test_an_unknown_zone_of_the_calendar_is_named(self):
        (problem,) = self.problems(head="X-WR-TIMEZONE:Mars/Phobos\n")
        assert "timezone is 'Mars/Phobos', not a known zone" in problem

    @pytest.mark.parametrize(
        "text", ["", "<html><body>Sign in</body></html>", "BEGIN:VCALENDAR\nBEGIN:VEVENT\n", b"\xff\xfe"]
    )
    def test_what_is_no_calendar_says_so(self, text):
        with pytest.raises(RoutingError, match="This is not a calendar"):
            shifts_from_ical(text, START, END)

    def test_bounds_need_an_offset(self):
        with pytest.raises(RoutingError, match=r"^end is 2026-10-26T00:00:00, without a UTC offset"):
            shifts_from_ical(calendar(), START, END.replace(tzinfo=None))

    def test_a_period_needs_a_length(self):
        with pytest.raises(RoutingError, match="is not after start"):
            shifts_from_ical(calendar(), END, START)

    def test_the_name_of_a_file_is_no_calendar(self, tmp_path):
        path = tmp_path / "team.ics"
        path.write_text(calendar(PAGERDUTY))
        with pytest.raises(RoutingError, match="not a calendar in iCalendar form: it begins with '/"):
            shifts_from_ical(str(path), START, END)

    def test_without_the_libraries_it_says_what_to_install(self, monkeypatch):
        real = builtins.__import__

        def without(name, *rest):
            if name == "recurring_ical_events":
                raise ImportError(name)
            return real(name, *rest)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(RoutingError, match=r"airflow-provider-splashify\[ical\]"):
            shifts_from_ical(calendar(), START, END)


def test_bytes_and_a_byte_order_mark_are_read():
    text = calendar(PAGERDUTY)
    assert len(shifts_from_ical(text.encode(), START, END)) == 1
    assert len(shifts_from_ical("\ufeff" + text, START, END)) == 1
