from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splashify_provider.routing import RoutingError, Shift, WeeklyShift, on_duty
from splashify_provider.routing.fields import WEEKDAYS

UTC = timezone.utc
AT = datetime(2026, 11, 22, 13, tzinfo=UTC)
HOUR = timedelta(hours=1)


def shift(agent, start, end):
    """A shift from and to these hours, counted from AT."""
    return Shift(f"{agent}@example.com", AT + start * HOUR, AT + end * HOUR)


def weekly(start, end, zone="Europe/Berlin", **fields):
    return WeeklyShift("ada@example.com", start_time=start, end_time=end, timezone=zone, **fields)


def hours(found):
    return [(each.end - each.start) / HOUR for each in found]


class TestOnDuty:
    def test_a_shift_includes_its_start_and_not_its_end(self):
        shifts = [shift("ada", -8, 0), shift("ben", 0, 8)]
        assert on_duty(shifts, AT) == ["ben@example.com"]
        assert on_duty(shifts, AT - timedelta.resolution) == ["ada@example.com"]
        assert on_duty(shifts, AT + 8 * HOUR) == []

    def test_agents_are_sorted_and_named_once_however_they_are_typed(self):
        shifts = [shift("Cleo", -1, 1), shift("ben", -1, 1), shift("cleo", -2, 2), shift("ada", -1, 1)]
        assert on_duty(shifts, AT) == ["ada@example.com", "ben@example.com", "Cleo@example.com"]

    def test_the_same_moment_in_another_zone_is_the_same_moment(self):
        at = AT.astimezone(ZoneInfo("Asia/Kolkata"))
        assert on_duty([shift("ada", 0, 1), shift("ben", -1, 0)], at) == ["ada@example.com"]

    def test_weekly_shifts_and_rows_of_both_kinds_mix(self):
        rows = [
            weekly("14:00", "22:00"),
            {"AGENT_EMAIL": "ben@example.com", "START": "2026-11-22T13:00:00Z", "END": AT + HOUR, "id": 7},
            {
                "agent_email": "cleo@example.com",
                "weekdays": "sun",
                "start_time": "09:00",
                "end_time": "18:00",
                "timezone": "Africa/Lagos",
                "capacity": None,
            },
            {"agent_email": "dan@example.com", "start": AT, "end": AT + HOUR, "timezone": "Europe/Berlin"},
        ]
        assert on_duty(rows, AT) == [f"{name}@example.com" for name in ("ada", "ben", "cleo", "dan")]

    @pytest.mark.parametrize("at", [datetime(2026, 11, 22, 13), None, "soon", date(2026, 11, 22)])  # noqa: DTZ001
    def test_a_moment_without_an_offset_is_refused(self, at):
        with pytest.raises(
            RoutingError, match=r"^at is (missing|'[^']+', not a time|2026-11-22T13:00:00, without a UTC)"
        ):
            on_duty([], at)

    def test_the_second_pass_of_an_hour_is_told_from_the_first(self):
        berlin = ZoneInfo("Europe/Berlin")
        first = datetime(2026, 10, 25, 2, 30, tzinfo=berlin)
        second = first.replace(fold=1)
        shifts = [Shift("ada@example.com", first, second), Shift("ben@example.com", second, second + 2 * HOUR)]
        assert on_duty(shifts, first) == ["ada@example.com"]
        assert on_duty(shifts, second) == ["ben@example.com"]
        assert hours(shifts)[0] == 1


class TestWeeklyShift:
    # In the night of these dates the clocks change. By zone: forward, back, and how far.
    NIGHTS = (
        ("Europe/Berlin", date(2026, 3, 28), date(2026, 10, 24), 1),
        ("America/New_York", date(2026, 3, 7), date(2026, 10, 31), 1),
        ("Australia/Lord_Howe", date(2026, 10, 3), date(2026, 4, 4), 0.5),
        ("Pacific/Auckland", date(2026, 9, 26), date(2026, 4, 4), 1),
        ("America/Santiago", date(2026, 9, 5), date(2026, 4, 4), 1),  # at midnight
    )

    @pytest.mark.parametrize(("name", "forward", "back", "change"), NIGHTS)
    def test_a_night_is_shorter_or_longer_where_the_clocks_change(self, name, forward, back, change):
        zone = ZoneInfo(name)

        def night(day):
            noon = datetime.combine(day, time(12), zone)
            return hours(weekly("22:00", "06:00", name).expand(noon, noon + 12 * HOUR))

        assert night(forward) == [8 - change]
        assert night(back) == [8 + change]
        assert night(date(2026, 6, 15)) == [8]

    @pytest.mark.parametrize(("name", "forward", "back", "change"), NIGHTS)
    def test_three_shifts_cover_every_moment_of_such_a_night_exactly_once(self, name, forward, back, change):
        day = [weekly("06:00", "14:00", name), weekly("14:00", "22:00", name), weekly("22:00", "06:00", name)]
        for night in (forward, back):
            start = datetime.combine(night, time(12), ZoneInfo(name)).astimezone(UTC)
            for minute in range(0, 24 * 60, 15):
                at = start + timedelta(minutes=minute)
                assert sum(bool(on_duty([each], at)) for each in day) == 1, at

    def test_a_time_that_the_night_skips_counts_as_before_the_change(self):
        noon = datetime(2026, 3, 28, 12, tzinfo=UTC)
        (found,) = weekly("22:00", "02:30").expand(noon, noon + 20 * HOUR)
        assert found.end == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)

    def test_of_a_time_that_comes_twice_the_first_is_meant(self):
        noon = datetime(2026, 10, 24, 12, tzinfo=UTC)
        (found,) = weekly("22:00", "02:30").expand(noon, noon + 20 * HOUR)
        assert found.end == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)

    def test_a_shift_within_the_skipped_hour_does_not_take_place(self):
        noon = datetime(2026, 3, 28, 12, tzinfo=UTC)
        assert weekly("02:30", "03:00").expand(noon, noon + 20 * HOUR) == []

    def test_it_starts_on_its_weekdays_only_and_goes_on_into_the_next_day(self):
        found = weekly("22:00", "06:00", weekdays=("fri", "Sunday")).expand(
            datetime(2026, 11, 17, tzinfo=UTC), datetime(2026, 11, 30, tzinfo=UTC)
        )
        assert [each.start.strftime("%a %d %H") for each in found] == [
            "Fri 20 21",
            "Sun 22 21",
            "Fri 27 21",
            "Sun 29 21",
        ]
        friday = weekly("22:00", "06:00", weekdays="fri")
        assert on_duty([friday], datetime(2026, 11, 21, 4, 59, tzinfo=UTC))
        assert not on_duty([friday], datetime(2026, 11, 21, 5, tzinfo=UTC))

    def test_dates_off_count_for_the_day_it_starts_on_in_its_zone(self):
        holiday = weekly("22:00", "06:00", "Pacific/Auckland", dates_off=[date(2026, 12, 24), "2026-12-26"])
        found = holiday.expand(datetime(2026, 12, 22, 12, tzinfo=UTC), datetime(2026, 12, 27, 12, tzinfo=UTC))
        auckland = ZoneInfo("Pacific/Auckland")
        assert [each.start.astimezone(auckland).day for each in found] == [22, 23, 25, 27]

    def test_the_same_time_twice_is_a_whole_day(self):
        found = weekly("09:00", "09:00", weekdays="mon").expand(AT, AT + timedelta(days=7))
        assert hours(found) == [24]
        assert on_duty([weekly("00:00", "00:00")], AT)

    def test_a_shift_belongs_to_every_period_it_overlaps_and_to_no_other(self):
        early = weekly("06:00", "14:00", "UTC")
        start = datetime(2026, 11, 22, 6, tzinfo=UTC)
        for before, after, count in ((-1, 0, 0), (-1, 1, 1), (3, 4, 1), (7, 9, 1), (8, 9, 0), (0, 24, 1), (0, 25, 2)):
            assert len(early.expand(start + before * HOUR, start + after * HOUR)) == count

    def test_every_day_is_the_default(self):
        assert weekly("06:00", "14:00").weekdays == WEEKDAYS

    @given(
        st.sampled_from([name for name, *_ in NIGHTS] + ["Asia/Kolkata", "Africa/Casablanca", "America/St_Johns"]),
        st.times(),
        st.times(),
        st.sets(st.sampled_from(WEEKDAYS), min_size=1),
        st.datetimes(datetime(2025, 1, 1), datetime(2028, 1, 1)),  # noqa: DTZ001 - where they are is drawn too
    )
    @settings(max_examples=150, deadline=None)
    def test_on_duty_agrees_with_a_look_at_the_wall_clock(self, name, start, end, days, wall):
        """Somebody walks in and compares the clock on the wall with the pattern."""
        zone = ZoneInfo(name)
        at = wall.replace(tzinfo=zone)
        clocks = [at + timedelta(hours=offset) for offset in (-26, 26)]
        if len({clock.utcoffset() for clock in clocks}) > 1:
            return  # near a change of the clocks the wall is not enough; the tests above are about those
        pattern = WeeklyShift("ada@example.com", tuple(days), start, end, name)
        clock, today = wall.time(), WEEKDAYS[wall.weekday()]
        yesterday = WEEKDAYS[wall.weekday() - 1]
        if start < end:
            expected = today in days and start <= clock < end
        else:
            expected = (today in days and clock >= start) or (yesterday in days and clock < end)
        assert bool(on_duty([pattern], at)) is expected
