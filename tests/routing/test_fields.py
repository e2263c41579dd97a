from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from zoneinfo import ZoneInfo

import pendulum
import pytest
from dateutil import tz
from hypothesis import given

from splashify_provider.routing import RoutingError, Shift, WeeklyShift, on_duty
from splashify_provider.routing.fields import moment, time_of_day, zone
from tests.routing.helpers import AT, HOUR, ZONES, examples, moments


def weekly(start, end, zone="Europe/Berlin", **fields):
    return WeeklyShift("ada@example.com", start_time=start, end_time=end, timezone=zone, **fields)


class TestMoments:
    @given(moments())
    @examples(100)
    def test_a_moment_of_any_type_in_any_zone_is_the_same_plain_one_in_utc(self, at):
        read = moment(at)
        assert type(read) is datetime
        assert read.tzinfo is timezone.utc
        assert read.timestamp() == at.timestamp()
        assert (read + timedelta.resolution).utcoffset() == timedelta(0)

    @given(moments())
    @examples(30)
    def test_a_shift_is_the_same_whatever_type_its_bounds_are(self, at):
        at = at.replace(microsecond=0)
        plain = datetime.fromtimestamp(at.timestamp(), timezone.utc)
        assert Shift("ada@example.com", at, plain + HOUR) == Shift("ada@example.com", plain, plain + HOUR)
        assert Shift("ada@example.com", at.isoformat(), plain + HOUR) == Shift("ada@example.com", plain, plain + HOUR)

    @pytest.mark.parametrize(
        "naive",
        [datetime(2026, 11, 22, 13), pendulum.naive(2026, 11, 22, 13), "2026-11-22T13:00:00"],  # noqa: DTZ001
    )
    def test_without_an_offset_it_is_refused(self, naive):
        with pytest.raises(ValueError, match="is 2026-11-22T13:00:00, without a UTC offset") as raised:
            moment(naive)
        assert str(raised.value).splitlines()[1].startswith("Write it as 2026-11-22T06:00:00+01:00")

    @pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:00:00-12:00", "9999-12-31T24:00:00Z"])
    def test_beyond_the_calendar_it_is_refused(self, text):
        with pytest.raises(RoutingError, match="beyond the years|not a time"):
            on_duty([], text)

    def test_what_databases_take_for_endless_is_a_time(self):
        endless = {"agent_email": "ada@example.com", "start": "0001-01-01T00:00:00Z", "end": "9999-12-31T23:59:59Z"}
        assert on_duty([endless], AT) == ["ada@example.com"]


class TestClocksAndZones:
    @pytest.mark.parametrize(
        "value",
        ["06:00", "6:00", "06:00:00", time(6), timedelta(hours=6), pendulum.time(6), pendulum.duration(hours=6)],
    )
    def test_times_of_day_are_read_as_databases_write_them(self, value):
        read = time_of_day(value)
        assert read == time(6)
        assert type(read) is time

    @pytest.mark.parametrize("value", ["24:00", timedelta(days=1), pendulum.duration(days=1), "00:00"])
    def test_midnight_has_two_names(self, value):
        assert weekly("16:00", value).end_time == time(0)

    @pytest.mark.parametrize("value", ["25:00", "6", time(6, tzinfo=timezone.utc), pendulum.duration(days=2), 6, AT])
    def test_what_is_no_time_of_day_is_refused(self, value):
        with pytest.raises(ValueError, match="not a time of day"):
            time_of_day(value)

    @pytest.mark.parametrize("name", ZONES)
    @pytest.mark.parametrize("as_type", [str, ZoneInfo, pendulum.timezone])
    def test_a_zone_is_known_by_its_name_whatever_type_it_is(self, name, as_type):
        assert zone(as_type(name)) is ZoneInfo(name)

    def test_pytzs_zones_are_their_names(self):
        class Named(tzinfo):
            def utcoffset(self, at):
                return None

            def __str__(self):
                return "Europe/Berlin"

        assert zone(Named()) is ZoneInfo("Europe/Berlin")

    @pytest.mark.parametrize(
        "value", [timezone(timedelta(hours=2)), pendulum.FixedTimezone(7200), tz.tzoffset(None, 7200)]
    )
    def test_a_fixed_offset_is_a_zone(self, value):
        assert zone(value) == timezone(timedelta(hours=2))

    @pytest.mark.parametrize(
        "value", ["Mars/Phobos", "Europe", "../etc/passwd", tz.gettz("Europe/Berlin"), 1, "+02:00"]
    )
    def test_any_other_zone_is_refused(self, value):
        with pytest.raises(ValueError, match="not a known zone: use an IANA name"):
            zone(value)


def test_every_bad_row_is_named_by_position_field_and_reason():
    good = {"agent_email": "ada@example.com", "start": AT, "end": AT + HOUR}
    rows = [
        good,
        {**good, "agent_email": " "},
        {**good, "start": datetime(2026, 11, 22, 13), "end": "2026-11-22 14:00"},  # noqa: DTZ001
        good,
        {**good, "end": AT},
        {"agent_email": "Ada Lovelace", "start": None},
        {**good, "capacity": "lots"},
        ("ada@example.com", AT, AT + HOUR),
        {"agent_email": "a@b.c", "start_time": "25:00", "end_time": 7, "timezone": "Mars/Phobos", "weekdays": "so"},
    ]
    with pytest.raises(RoutingError) as raised:
        on_duty(rows, AT)
    problems = raised.value.problems
    places = [" ".join(problem.split(" ")[:3]).removesuffix(" is") for problem in problems]
    assert places == [
        "shift 2: agent_email", "shift 3: start", "shift 3: end", "shift 5: end", "shift 6: agent_email",
        "shift 6: start", "shift 6: end", "shift 7: capacity", "shift 8", "shift 9: weekdays",
        "shift 9: start_time", "shift 9: end_time", "shift 9: timezone",
    ]  # fmt: skip
    for part, problem in zip(
        ["missing", "without a UTC offset", "without a UTC offset", "not after its start", "not an e-mail address",
         "missing", "missing", "not a positive number", "a tuple, not a mapping", "not one of mon",
         "not a time of day", "not a time of day", "not a known zone"], problems, strict=True,
    ):  # fmt: skip
        assert part in problem
    for problem in problems:
        assert problem in str(raised.value)
    assert str(raised.value).startswith("13 problems in the shifts:\n")
    assert problems[6].endswith(
        "is missing (ends_at would do, too; its columns: agent_email, start) (in the row of Ada Lovelace)"
    )
    assert problems[3].endswith("(in the row of ada@example.com)")


def test_thousands_of_bad_rows_make_a_readable_error():
    with pytest.raises(RoutingError, match="and 4,950 more") as raised:
        on_duty([{"agent_email": "ada@example.com", "start": AT, "end": AT}] * 5000, AT)
    assert len(raised.value.problems) == 5000
    assert len(str(raised.value)) < 10_000


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-22T13:00:00Z", "2026-11-22T14:00:00+01:00", "2026-11-22 14:00:00+01",
        "2026-11-22T13:00:00.0000000Z",
        "20261122T140000+0100", " 2026-11-22T14:00+01:00 ",
    ],
)  # fmt: skip
def test_times_are_read_as_databases_write_them(text):
    assert Shift("ada@example.com", text, AT + HOUR).start == AT


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, None), ("", None), (float("nan"), None), (2, 2), ("2.5", 2.5), (Decimal("0.5"), 0.5)],
)
def test_capacity_is_a_positive_number_or_missing(value, expected):
    assert Shift("ada@example.com", AT, AT + HOUR, value).capacity == expected


@pytest.mark.parametrize("value", [0, -1, "many", float("inf"), True, [1]])
def test_any_other_capacity_is_refused(value):
    with pytest.raises(RoutingError, match="capacity is .*, not a positive number"):
        Shift("ada@example.com", AT, AT + HOUR, value)


@pytest.mark.parametrize(
    "value", [["en", "pt-BR"], "en, pt-BR", '["en", "pt-BR"]', "{en,pt-BR}", ("en", None, "pt-BR")]
)
def test_languages_are_read_from_lists_text_and_arrays(value):
    assert Shift("ada@example.com", AT, AT + HOUR, languages=value).languages == ("en", "pt-BR")


@pytest.mark.parametrize("value", [None, "", [], float("nan")])
def test_nobody_has_to_name_languages(value):
    assert Shift("ada@example.com", AT, AT + HOUR, languages=value).languages == ()


def test_a_table_may_hold_both_kinds():
    empty = dict.fromkeys(("start", "end", "weekdays", "start_time", "end_time", "timezone"))
    weekly = {"weekdays": '["sun"]', "start_time": "09:00", "end_time": "18:00", "timezone": "Africa/Lagos"}
    rows = [
        {**empty, "agent_email": "ada@example.com", "start": AT, "end": AT + HOUR},
        {**empty, "agent_email": "ben@example.com", **weekly},
        {**empty, "agent_email": "cleo@example.com", **weekly, "weekdays": None},
    ]
    assert on_duty(rows, AT) == ["ada@example.com", "ben@example.com", "cleo@example.com"]


@pytest.mark.parametrize(
    "value",
    [date(2026, 12, 24), [datetime(2026, 12, 24)], "2026-12-24", '["2026-12-24"]', ["2026-12-24", None]],  # noqa: DTZ001
)
def test_dates_off_are_read_from_dates_lists_and_text(value):
    assert weekly("06:00", "14:00", dates_off=value).dates_off == {date(2026, 12, 24)}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"dates_off": "20261224"}, "dates_off has '…1224', not a date such as"),
        ({"dates_off": "2026-W52-4"}, "dates_off has '2026-W52-4', not a date such as"),
        ({"start_time": datetime(2026, 12, 24, 6)}, "start_time is '2026-12-24T06:00:00', not a time of day"),  # noqa: DTZ001
        ({"weekdays": "mon,funday"}, "weekdays has 'funday', not one of mon,"),
        ({"weekdays": 3}, "weekdays is '3', not a list"),
        ({"dates_off": "26.12.2026"}, "dates_off has '26.12.2026', not a date such as"),
        ({"start": AT}, "start and end_time are both given"),
        ({"timezone": "Europe"}, "timezone is 'Europe', not a known zone"),
        ({"capacity": Decimal("sNaN")}, "capacity is '"),
        ({"capacity": 10**400}, "capacity is '"),
        ({"agent_email": ["ada@example.com"]}, "agent_email is "),
        ({"agent_email": "<ada@example.com>"}, "agent_email is '<ada@example.com>', not an e-mail"),
        ({"agent_email": "mailto:ada@example.com"}, "agent_email is 'mailto:ada@example.com', not an e-mail"),
    ],
)
def test_what_cant_be_read_is_shown_with_the_reason(fields, reason):
    row = {"agent_email": "ada@example.com", "start_time": "06:00", "end_time": "14:00", "timezone": "UTC"}
    with pytest.raises(RoutingError) as raised:
        on_duty([{**row, **fields}], AT)
    (problem,) = raised.value.problems
    assert problem.startswith(f"shift 1: {reason}")


class TestNamesOfColumns:
    @pytest.mark.parametrize(
        "names", [("start", "end"), ("starts_at", "ends_at"), ("START", "Ends_At"), ("starts_at", "end")]
    )
    def test_start_and_end_are_known_by_both_their_names(self, names):
        row = dict(zip(("agent_email", *names), ("ada@example.com", AT, AT + HOUR), strict=True))
        assert on_duty([row, {**row, "agent_email": "ben@example.com"}], AT) == ["ada@example.com", "ben@example.com"]
        assert on_duty([row], AT + HOUR) == []

    def test_where_a_table_has_both_the_one_that_is_given_counts(self):
        empty = dict.fromkeys(("start", "end", "starts_at", "ends_at"))
        rows = [
            {"agent_email": "ada@example.com", **empty, "start": AT, "ends_at": AT + HOUR},
            {"agent_email": "ben@example.com", **empty, "starts_at": AT, "end": AT + HOUR},
            {
                "agent_email": "cleo@example.com",
                "start": AT,
                "starts_at": "2026-11-22T14:00:00+01:00",
                "end": AT + HOUR,
                "ends_at": AT + HOUR,
            },
        ]
        assert on_duty(rows, AT) == ["ada@example.com", "ben@example.com", "cleo@example.com"]

    def test_two_that_differ_are_refused_by_name(self):
        row = {"agent_email": "ada@example.com", "start": AT, "starts_at": AT - HOUR, "end": AT + HOUR}
        with pytest.raises(RoutingError) as raised:
            on_duty([row], AT)
        assert raised.value.problems == [
            (
                "shift 1: start (2026-11-22T13:00:00+00:00) and starts_at (2026-11-22T12:00:00+00:00) differ: "
                "leave one out (in the row of ada@example.com)"
            )
        ]

    def test_one_shift_is_told_from_one_every_week_by_either_name(self):
        row = {"agent_email": "ada@example.com", "starts_at": AT, "weekdays": "mon"}
        with pytest.raises(RoutingError, match="starts_at and weekdays are both given"):
            on_duty([row], AT)

    def test_where_neither_is_there_the_error_says_which_columns_are(self):
        with pytest.raises(RoutingError) as raised:
            on_duty([{"agent_email": "ada@example.com", "begins": AT, "finishes": AT}], AT)
        assert raised.value.problems == [
            (
                "shift 1: start is missing (starts_at would do, too; its columns: agent_email, begins, finishes) "
                "(in the row of ada@example.com)"
            ),
            "shift 1: end is missing (ends_at would do, too) (in the row of ada@example.com)",
        ]

    def test_problems_name_the_column_that_the_row_has(self):
        rows = [
            {"email": "ada@example.com", "starts_at": AT, "ends_at": AT + HOUR},
            {"agent_email": "ada@example.com", "starts_at": "soon", "ends_at": None},
            {"agent_email": "ada@example.com", "starts_at": AT, "ends_at": AT},
        ]
        with pytest.raises(RoutingError) as raised:
            on_duty(rows, AT)
        for part, problem in zip(
            [
                "agent_email is missing (its columns: email, starts_at, ends_at)",
                "starts_at is 'soon', not a time",
                "ends_at is missing (in the row",
                "ends_at (2026-11-22 13:00 UTC) is not after its start",
            ], raised.value.problems, strict=True,
        ):  # fmt: skip
            assert part in problem


def test_times_of_day_are_read_as_databases_write_them():
    for value in ("06:00", "6:00", "06:00:00", time(6), timedelta(hours=6)):
        assert weekly(value, "14:00").start_time == time(6)
    for value in ("24:00", timedelta(days=1), "00:00"):
        assert weekly("16:00", value).end_time == time(0)


def test_phone_numbers_in_the_wrong_column_are_not_repeated():
    with pytest.raises(RoutingError) as raised:
        on_duty([{"agent_email": "+1 202 555 0101", "start": AT, "end": AT + HOUR}], AT)
    assert "555" not in str(raised.value)
    assert "…0101" in str(raised.value)
