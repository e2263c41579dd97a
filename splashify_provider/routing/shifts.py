"""Who is on duty when: shifts as moments in time, and weekly patterns on a wall clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import MAXYEAR, date, datetime, time, timedelta, timezone
from typing import TYPE_CHECKING, Any

from splashify_provider.exceptions import RoutingError
from splashify_provider.routing.fields import (
    WEEKDAYS,
    convert,
    dates,
    email_address,
    is_missing,
    languages,
    moment,
    read_rows,
    refuse,
    time_of_day,
    weekdays,
    weight,
    zone,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import tzinfo

_REQUIRED: Any = None  # a default for fields that follow one with a default; refused as missing


@dataclass(frozen=True)
class Shift:
    """One stretch of time in which an agent is on duty: from its start up to, not including, its end.

    In rows, ``starts_at`` and ``ends_at`` are the start and the end, too.

    :param agent_email: The agent's e-mail address.
    :param start: An aware datetime, the standard library's or pendulum's, or ISO 8601 text with a UTC offset. Kept in
        UTC, as the standard library's.
    :param end: The same; after the start.
    :param capacity: The agent's share of conversations relative to the others': 2 takes twice as many as 1.
        None is 1.
    :param languages: What the agent speaks, as tags (``en``, ``pt-BR``) or names.
    :raises RoutingError: If a field can't be read, or the end is not after the start.
    """

    agent_email: str
    start: datetime = field(metadata={"also": "starts_at"})
    end: datetime = field(metadata={"also": "ends_at"})
    capacity: float | None = None
    languages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        convert(self, agent_email=email_address, start=moment, end=moment, capacity=weight, languages=languages)
        if self.end <= self.start:
            refuse("this Shift", [f"end ({_shown(self.end)}) is not after its start ({_shown(self.start)})"])


@dataclass(frozen=True)
class WeeklyShift:
    """A shift that recurs every week, by the wall clock of a time zone.

    One that ends at or before the time it starts goes on into the next day. Where clocks change, it begins and ends
    when the clock on the wall says so: 22:00 to 06:00 lasts seven hours in the night clocks go forward, and nine in
    the night they go back. A time that such a night skips counts as if clocks had not changed yet, and an ambiguous
    time means its first occurrence (as RFC 5545 has it).

    :param agent_email: The agent's e-mail address.
    :param weekdays: The days it starts on: ``("mon", "fri")``, or text (``"mon,fri"``). Every day unless given.
    :param start_time: A naive time, or text (``"22:00"``).
    :param end_time: The same. Equal to the start: 24 hours.
    :param timezone: The zone whose clock counts: an IANA name such as ``Europe/Berlin``, or a zone that has one.
    :param capacity: As of :class:`Shift`.
    :param languages: As of :class:`Shift`.
    :param dates_off: The dates, in that zone, on which no shift starts.
    :raises RoutingError: If a field can't be read.
    """

    agent_email: str
    weekdays: tuple[str, ...] = WEEKDAYS
    start_time: time = _REQUIRED
    end_time: time = _REQUIRED
    timezone: Any = _REQUIRED
    capacity: float | None = None
    languages: tuple[str, ...] = ()
    dates_off: frozenset[date] = frozenset()

    def __post_init__(self) -> None:
        convert(
            self,
            agent_email=email_address,
            weekdays=weekdays,
            start_time=time_of_day,
            end_time=time_of_day,
            timezone=zone,
            capacity=weight,
            languages=languages,
            dates_off=dates,
        )

    def expand(self, start: datetime, end: datetime) -> list[Shift]:
        """Return the shifts that overlap a period, whole, in order.

        :param start: The period's start, aware.
        :param end: The period's end, aware; not included.
        :return: The shifts.
        :raises RoutingError: If a bound has no UTC offset.
        """
        start, end = aware(start, "start"), aware(end, "end")
        # Two days cover the longest shift (24 hours and an hour's change) before the first day.
        day = start.astimezone(self.timezone).date() - timedelta(days=2)
        last = end.astimezone(self.timezone).date()
        found = []
        while day <= last:
            if WEEKDAYS[day.weekday()] in self.weekdays and day not in self.dates_off:
                shift_start = self._moment(day, self.start_time)
                shift_end = self._moment(day + timedelta(days=self.end_time <= self.start_time), self.end_time)
                # Not so for a shift that lies within the hour a night skips.
                if shift_start < shift_end and shift_start < end and start < shift_end:
                    found.append(Shift(self.agent_email, shift_start, shift_end, self.capacity, self.languages))
            day += timedelta(days=1)
        return found

    def _moment(self, day: date, clock: time) -> datetime:
        return datetime.combine(day, clock, tzinfo=self.timezone).astimezone(timezone.utc)


def on_duty(shifts: Iterable[Shift | WeeklyShift | Mapping[str, Any]], at: datetime) -> list[str]:
    """Return who is on duty at a moment.

    :param shifts: Shifts, weekly shifts, or rows with the fields of either.
    :param at: The moment, an aware datetime, the standard library's or pendulum's.
    :return: The agents' e-mail addresses, sorted, each once, however it was typed.
    :raises RoutingError: Naming every bad row by position (1 is the first), field and reason; or if ``at`` has no UTC
        offset.
    """
    agents: dict[str, str] = {}
    for shift in shifts_on_duty(shifts, at):
        agents.setdefault(shift.agent_email.casefold(), shift.agent_email)
    return list(agents.values())


def shifts_on_duty(shifts: Iterable[Shift | WeeklyShift | Mapping[str, Any]], at: datetime) -> list[Shift]:
    """Return the shifts that include a moment.

    :param shifts: Shifts, weekly shifts, or rows with the fields of either.
    :param at: The moment, an aware datetime.
    :return: Those shifts, in an order that depends on nothing but what they are.
    :raises RoutingError: Naming every bad row by position (1 is the first), field and reason; or if ``at`` has no UTC
        offset.
    """
    at = aware(at, "at")
    found: list[Shift] = []
    for shift in read_shifts(shifts):
        if isinstance(shift, WeeklyShift):
            found += shift.expand(at, at + timedelta.resolution)
        elif shift.start <= at < shift.end:
            found.append(shift)
    return sorted(found, key=lambda shift: (shift.agent_email.casefold(), shift.agent_email, shift.start, shift.end))


def read_shifts(shifts: Iterable[Shift | WeeklyShift | Mapping[str, Any]]) -> list[Shift | WeeklyShift]:
    """Return a roster's rows as shifts; shifts pass as they are.

    :param shifts: Shifts, weekly shifts, or rows with the fields of either.
    :return: The shifts, in order.
    :raises RoutingError: Naming every bad row by position (1 is the first), field and reason.
    """
    return read_rows(shifts, _kind_of, (Shift, WeeklyShift), "shifts")


def shared_zone(shifts: Iterable[Shift | WeeklyShift]) -> tzinfo | None:
    """Return the zone of a roster.

    :param shifts: Its shifts.
    :return: The one zone that its weekly shifts share; None if there are several or none.
    """
    zones = {shift.timezone for shift in shifts if isinstance(shift, WeeklyShift)}
    return zones.pop() if len(zones) == 1 else None


def aware(at: datetime, name: str) -> datetime:
    """Return a moment that was given as an argument, in UTC.

    :param at: The moment.
    :param name: The argument's name, for the error.
    :return: The moment, of the standard library's type.
    :raises RoutingError: If it is no datetime, has no UTC offset, or there are no days around it to look at.
    """
    try:
        time = moment(at)
    except ValueError as error:
        raise RoutingError(f"{name} {error}") from None
    if not 1 < time.year < MAXYEAR:
        raise RoutingError(f"{name} is {time.isoformat()}, not in the years 2 to {MAXYEAR - 1}.")
    return time


def _shown(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M %Z}"


def _kind_of(row: Mapping[str, Any]) -> type[Shift | WeeklyShift]:
    given = {name for name, value in row.items() if not is_missing(value)}
    once, weekly = {"start", "end", "starts_at", "ends_at"} & given, {"weekdays", "start_time", "end_time"} & given
    if once and weekly:
        raise ValueError(f"{min(once)} and {min(weekly)} are both given: is it one shift, or one every week?")
    return WeeklyShift if weekly else Shift
