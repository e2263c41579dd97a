"""Shifts from calendars in iCalendar form: what PagerDuty, Opsgenie and Google Calendar export."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from splashify_provider.redaction import quote
from splashify_provider.routing.rows import RoutingError, zone
from splashify_provider.routing.shifts import Shift, aware

if TYPE_CHECKING:
    from collections.abc import Mapping
    from zoneinfo import ZoneInfo

    from icalendar import Calendar, Component, Event

_ADDRESS = re.compile(r"[\w.+'-]+@[\w-]+(?:\.[\w-]+)+")


def shifts_from_ical(
    text: str | bytes,
    start: datetime,
    end: datetime,
    *,
    timezone: str | None = None,
    agents: Mapping[str, str] | None = None,
) -> list[Shift]:
    """Read the shifts of a period from a calendar. Needs the extra ``airflow-provider-splashify[ical]``.

    An event is a shift of everybody it invites, except who has declined; of the e-mail addresses in its title where
    it invites nobody; else of the people that ``agents`` knows by a name in its title. Cancelled events are no shifts.

    :param text: The calendar (RFC 5545).
    :param start: The period's start, aware.
    :param end: The period's end, aware; not included.
    :param timezone: IANA name of the zone in which all-day events and times without a zone are meant. The calendar's
        own (``X-WR-TIMEZONE``) unless given.
    :param agents: E-mail addresses by the names that stand in titles, for calendars without addresses.
    :return: The shifts that overlap the period, whole, in order.
    :raises RoutingError: If this is no calendar, or naming every event that can't be read and why.
    """
    try:
        import recurring_ical_events
    except ImportError:
        raise RoutingError(
            "Reading calendars needs two more libraries: pip install 'airflow-provider-splashify[ical]'"
        ) from None

    start, end = aware(start, "start"), aware(end, "end")
    calendar = _parse(text)
    own_zone = calendar.pop("X-WR-TIMEZONE", None)  # else the library shifts series that are meant in UTC
    local = _zone(timezone or own_zone)
    _refuse_unknown_zones(calendar)
    shifts: list[Shift] = []
    problems: list[str] = []
    try:
        # A day more on either side: the library doesn't know where all-day events are meant.
        events = recurring_ical_events.of(calendar).between(start - timedelta(days=1), end + timedelta(days=1))
    except Exception as error:  # of many kinds, for rules that make no sense
        raise RoutingError(f"This calendar's events can't be expanded: {quote(error)}.") from None
    for event in events:
        if event.get("STATUS") == "CANCELLED":
            continue
        try:
            event_start, event_end = (_moment(event, name, local) for name in ("start", "end"))
            if event_start < end and start < event_end:
                shifts += [Shift(agent, event_start, event_end) for agent in _agents(event, agents or {})]
        except RoutingError as error:
            problems += [f"{_name(event)}: {problem}" for problem in error.problems]
    if problems:
        raise RoutingError("This calendar can't be used:", sorted(set(problems)))
    return sorted(shifts, key=lambda shift: (shift.start, shift.agent_email.casefold(), shift.end))


def _parse(text: str | bytes) -> Calendar:
    from icalendar import Calendar, use_zoneinfo

    use_zoneinfo()  # type: ignore[no-untyped-call]  # anew: the library remembers the zones that other calendars have defined, by their names
    try:
        return Calendar.from_ical(text.lstrip("\ufeff") if isinstance(text, str) else text)
    except (ValueError, IndexError, KeyError) as error:
        raise RoutingError(
            f"This is not a calendar in iCalendar form: {quote(error)}. Check that the address is the calendar's "
            "own (it ends in .ics, or is called a feed), not a page that shows it."
        ) from None


def _zone(name: object) -> ZoneInfo | None:
    try:
        return zone(name) if name else None
    except ValueError as error:
        raise RoutingError(f"The calendar's timezone {error}.") from None


def _refuse_unknown_zones(calendar: Calendar) -> None:
    """Find times whose zone the calendar names and nobody knows: read without it, they would be another moment."""
    problems = {
        f"{_name(event)}: its zone {quote(value.params['TZID'])!r} is not known, and the calendar doesn't define it"
        for event in calendar.walk("VEVENT")
        for name in ("DTSTART", "DTEND")
        if (value := event.get(name)) is not None and "TZID" in value.params and _is_naive(value.dt)
    }
    if problems:
        raise RoutingError("This calendar can't be used:", sorted(problems))


def _is_naive(value: date) -> bool:
    return isinstance(value, datetime) and value.utcoffset() is None


def _moment(event: Event, name: str, local: ZoneInfo | None) -> datetime:
    """Give an event's start or end as an aware datetime."""
    value: Any = getattr(event, name)
    if isinstance(value, datetime) and value.utcoffset() is not None:
        return aware(value, name)
    if local is None:
        what = "has no time zone" if isinstance(value, datetime) else "is all day, and a day begins where people are"
        raise RoutingError(
            "", [f"it {what}. Pass timezone=, such as 'Europe/Berlin': the calendar has none of its own either"]
        )
    clock = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)  # noqa: DTZ001
    return aware(clock.replace(tzinfo=local), name)


def _agents(event: Event, known: Mapping[str, str]) -> list[str]:
    """Say whose shift an event is."""
    title = str(event.get("SUMMARY") or "")
    invited, declined = _invited(event)
    found = invited or ([] if declined else _ADDRESS.findall(title))
    if not found and not declined:
        words = title.casefold()
        found = [email for name, email in known.items() if re.search(rf"\b{re.escape(name.casefold())}\b", words)]
        if not found:
            raise RoutingError(
                "", ["it invites nobody, and its title has neither an e-mail address nor a name given in agents="]
            )
    return list({email.casefold(): email for email in found}.values())


def _invited(event: Event) -> tuple[list[str], list[str]]:
    """Split the people an event invites into those who come and those who have declined."""
    attendees = event.get("ATTENDEE") or []
    invited: list[str] = []
    declined: list[str] = []
    for attendee in attendees if isinstance(attendees, list) else [attendees]:
        kind, answer = (str(attendee.params.get(name, "")).upper() for name in ("CUTYPE", "PARTSTAT"))
        # PagerDuty leaves the scheme out.
        address = re.sub(r"^mailto:", "", str(attendee).strip(), flags=re.IGNORECASE)
        if kind not in ("ROOM", "RESOURCE") and _ADDRESS.fullmatch(address):
            (declined if answer == "DECLINED" else invited).append(address)
    return invited, declined


def _name(event: Component) -> str:
    when = event.get("DTSTART")
    return f"{quote(event.get('SUMMARY') or 'Event without a title')!r} ({when.dt if when is not None else 'no start'})"
