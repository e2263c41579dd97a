"""Shifts from calendars in iCalendar form: what PagerDuty, Opsgenie and Google Calendar export.

Whatever a calendar holds, reading it ends (:mod:`~splashify_provider.routing.calendar_bounds`), and what can't be read
with certainty is refused by the event's name.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from datetime import date, datetime, timedelta
from datetime import timezone as fixed_offset
from typing import TYPE_CHECKING, Any

from splashify_provider.agent_email import find_agent_emails, is_agent_email
from splashify_provider.exceptions import RoutingError
from splashify_provider.redaction import redact
from splashify_provider.routing.calendar_bounds import Steps, bounded_text
from splashify_provider.routing.fields import zone
from splashify_provider.routing.shifts import Shift, aware

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import tzinfo

    from icalendar import Calendar, Component, Event

_ONCE = ("UID", "DTSTART", "DTEND", "DURATION", "SUMMARY", "STATUS", "RECURRENCE-ID")
_TIMES = ("DTSTART", "DTEND", "RDATE", "EXDATE", "RECURRENCE-ID")
_DAY = timedelta(days=1)
_SECONDS = "X-SPLASHIFY-SECONDS"
_LONGEST_TITLE = 1_000  # characters; nobody is looked for in the rest
_MOST_OF = {"ATTENDEE": 1_000, "RRULE": 10, "RDATE": 10_000, "EXDATE": 10_000}  # in one event
_MOST_SHIFTS = 100_000
_MOST_CHANGES = 2_000  # of one series' events: each is looked at for every occurrence


def shifts_from_ical(
    text: str | bytes,
    start: datetime,
    end: datetime,
    *,
    timezone: str | None = None,
    agents: Mapping[str, str] | None = None,
) -> list[Shift]:
    """Read the shifts of a period from a calendar. Needs the extra ``airflow-provider-splashify[ical]``.

    An event is a shift of everybody it invites, except who has declined or delegated, takes no part, or is a group or a
    room; of the e-mail addresses in its title where it invites nobody; else of the people that ``agents`` knows by a
    name in its title. Cancelled events are no shifts.

    :param text: The calendar (RFC 5545).
    :param start: The period's start, aware.
    :param end: The period's end, aware; not included.
    :param timezone: IANA name of the zone in which all-day events and times without a zone are meant. The calendar's
        own (``X-WR-TIMEZONE``) unless given.
    :param agents: E-mail addresses by the names that stand in titles, for calendars without addresses.
    :return: The shifts that overlap the period, whole, in order.
    :raises RoutingError: If this is no calendar, or naming every event that can't be read with certainty and why.
    """
    try:
        import recurring_ical_events  # noqa: F401 - and icalendar with it
    except ImportError:
        raise RoutingError(
            "Reading calendars needs two more libraries.\nInstall them: pip install 'airflow-provider-splashify[ical]'"
        ) from None

    start, end = aware(start, "start"), aware(end, "end")
    if end <= start:
        raise RoutingError(f"end ({end}) is not after start ({start}).")
    calendar = _parse(text)
    own_zone = calendar.pop("X-WR-TIMEZONE", None)  # else the library shifts series that are meant in UTC
    local = _zone(timezone or own_zone)
    _check(calendar, start, end)
    _keep_durations(calendar)
    shifts: list[Shift] = []
    problems: set[str] = set()
    # A day more on either side: the library doesn't know where all-day events are meant.
    events = _expand(calendar, start - _DAY, end + _DAY)
    for event in events:
        if _says(event, "STATUS") == "CANCELLED":
            continue
        try:
            event_start, event_end = _span(event, local)
            if event_start < end and start < event_end:
                shifts += [Shift(agent, event_start, event_end) for agent in _agents(event, agents or {})]
        except RoutingError as error:
            problems |= {f"{_name(event)}: {problem}" for problem in error.problems}
        except Exception as error:  # of many kinds, for values that make no sense
            problems.add(f"{_name(event)}: it can't be read ({redact(error)})")
        if len(shifts) > _MOST_SHIFTS:
            raise RoutingError(
                f"This calendar has more than {_MOST_SHIFTS:,} shifts in this period, the last one read of "
                f"{_name(event)}.\nAsk for a shorter period."
            )
    _refuse(problems)
    return sorted(shifts, key=lambda shift: (shift.start, shift.agent_email.casefold(), shift.end))


def _parse(text: str | bytes) -> Calendar:
    from icalendar import Calendar, use_zoneinfo

    use_zoneinfo()  # type: ignore[no-untyped-call]  # anew: zones that other calendars defined are remembered by name
    content = text.decode("utf-8-sig", "replace") if isinstance(text, bytes) else text.lstrip("\ufeff")
    bounded = bounded_text(content)
    try:
        if "BEGIN:VCALENDAR" not in content:  # the library would look for a file of that name
            raise ValueError(f"it begins with {redact(content[:40])!r}")
        return Calendar.from_ical(bounded)
    except Exception as error:  # of many kinds, for text that makes no sense
        raise RoutingError(
            f"This is not a calendar in iCalendar form: {redact(error)}.\nCheck that the address is the calendar's "
            "own (it ends in .ics, or is called a feed), not a page that shows it."
        ) from None


def _expand(calendar: Calendar, start: datetime, end: datetime) -> list[Event]:
    """Return the events of a period, recurring ones once for each time."""
    import recurring_ical_events

    try:
        return list(recurring_ical_events.of(calendar).between(start, end))
    except Exception as error:  # of many kinds, for rules that make no sense
        found = redact(error)
    # Which event was it? Its series, put into a calendar of its own, fails alone.
    events = [event for event in calendar.walk("VEVENT") if _may_overlap(event, start, end)]
    for uid in {str(event.get("UID")) for event in events}:
        series = [event for event in events if str(event.get("UID")) == uid]
        alone = calendar.copy()
        alone.subcomponents = series
        try:
            recurring_ical_events.of(alone).between(start, end)
        except Exception:
            _refuse({f"{_name(series[0])}: when it recurs can't be worked out ({found})"})
    raise RoutingError(f"This calendar's events can't be expanded: {found}.")


def _zone(name: object) -> tzinfo | None:
    try:
        return zone(name) if name else None
    except ValueError as error:
        raise RoutingError(f"The calendar's timezone {error}.") from None


def _refuse(problems: set[str]) -> None:
    if problems:
        raise RoutingError("This calendar can't be used:", sorted(problems))


def _check(calendar: Calendar, start: datetime, end: datetime) -> None:
    """Refuse events that the libraries would read as something else, or leave out, without a word."""
    events = [event for event in calendar.walk("VEVENT") if _may_overlap(event, start, end)]
    steps = Steps()
    problems = {f"{_name(event)}: {problem}" for event in events for problem in _all_problems(event, end, steps)}
    changes = Counter(str(event.get("UID")) for event in events if "RECURRENCE-ID" in event)
    problems |= {
        f"{_name(event)}: {changes[str(event.get('UID'))]:,} of its times are changed one by one; at most "
        f"{_MOST_CHANGES:,} are read"
        for event in events
        if changes[str(event.get("UID"))] > _MOST_CHANGES
    }
    series = Counter(
        (str(event["UID"]), str(event.get("SEQUENCE", 0)))
        for event in events
        if "UID" in event and "RECURRENCE-ID" not in event
    )
    problems |= {
        f"{_name(event)}: another event has the same UID, so one of them would be lost"
        for event in events
        if "RECURRENCE-ID" not in event and series[str(event.get("UID")), str(event.get("SEQUENCE", 0))] > 1
    }
    _refuse(problems)


def _keep_durations(calendar: Calendar) -> None:
    """Note how many seconds an event lasts that says so in hours: the library turns that into an end on the clock."""
    for event in calendar.walk("VEVENT"):
        length = _dt(event, "DURATION")
        if isinstance(length, timedelta) and length % _DAY:  # days are by the calendar (RFC 5545, 3.3.6)
            event[_SECONDS] = str(int(length.total_seconds()))


def _all(event: Component, name: str) -> list[Any]:
    """Return a property's values: none, one, or several."""
    values = event.get(name, [])
    return values if isinstance(values, list) else [values]


def _dt(event: Component, name: str) -> Any:
    """Return what a property means, or None if it isn't there or can't be read."""
    try:
        return getattr(event.get(name), "dt", None)
    except Exception:  # of many kinds, for values that make no sense
        return None


def _may_overlap(event: Component, start: datetime, end: datetime) -> bool:
    """Check whether an event has to be looked at: old ones with faults do no harm."""
    if {"RRULE", "RDATE", "RECURRENCE-ID"} & event.keys():
        return True
    times = [_dt(event, name) for name in ("DTSTART", "DTEND")]
    days = [time.date() if isinstance(time, datetime) else time for time in times if isinstance(time, date)]
    return len(days) < 2 or (days[0] <= end.date() + 2 * _DAY and start.date() - 2 * _DAY <= max(days))


def _all_problems(event: Component, end: datetime, steps: Steps) -> list[str]:
    try:
        return list(_problems(event, end, steps))
    except Exception as error:  # of many kinds, for values that make no sense
        return [f"it can't be read ({redact(error)})"]


def _problems(event: Component, end: datetime, steps: Steps) -> Iterator[str]:
    if event.errors:
        yield from (f"its {name} can't be read ({redact(error)})" for name, error in event.errors)
        return
    if excess := list(_excess(event)):
        yield from excess
        return
    for name in _ONCE:
        if isinstance(event.get(name), list):
            yield f"it has more than one {name}"
    if "DTSTART" not in event:
        yield "it has no start"
    if "EXRULE" in event:
        yield "its exceptions are a rule (EXRULE), which the standard has dropped: export it with EXDATE"
    yield from _problems_of_rules(event, end, steps)
    zones = {
        redact(value.params["TZID"])
        for name in _TIMES
        for value in _all(event, name)
        if "TZID" in value.params and _is_naive(value)
    }
    for unknown in sorted(zones):
        yield f"its zone {unknown!r} is not known, and the calendar doesn't define it"
    if not zones:
        yield from _problems_of_span(event)


def _excess(event: Component) -> Iterator[str]:
    for name, most in _MOST_OF.items():
        if (count := sum(len(getattr(value, "dts", [value])) for value in _all(event, name))) > most:
            yield f"it has {count:,} of {name}; at most {most:,} are read"


def _problems_of_rules(event: Component, end: datetime, steps: Steps) -> Iterator[str]:
    begins = _dt(event, "DTSTART")
    if not isinstance(begins, date):
        return
    clock = begins if isinstance(begins, datetime) else datetime.combine(begins, datetime.min.time())
    for rule in _all(event, "RRULE"):
        yield from steps.problems_of(rule, clock.replace(tzinfo=None), (end + 2 * _DAY).replace(tzinfo=None))


def _problems_of_span(event: Component) -> Iterator[str]:
    start, end, length = (_dt(event, name) for name in ("DTSTART", "DTEND", "DURATION"))
    if start is not None and end is not None:
        if isinstance(start, datetime) != isinstance(end, datetime) or _is_floating(start) != _is_floating(end):
            yield "its start and its end are of different kinds: date, time, and time with a zone don't mix"
        elif end <= start:
            yield f"its end ({end}) is not after its start ({start})"
    if isinstance(length, timedelta) and length <= timedelta(0):
        yield f"its duration ({length}) is not positive"


def _is_naive(value: Any) -> bool:
    """Check whether one of a property's times (or its only one) has no zone."""
    times = [each.dt for each in value.dts] if hasattr(value, "dts") else [getattr(value, "dt", None)]
    return any(_is_floating(each) for each in times)


def _is_floating(value: object) -> bool:
    return isinstance(value, datetime) and value.utcoffset() is None


def _span(event: Event, local: tzinfo | None) -> tuple[datetime, datetime]:
    """Return an event's start and end in UTC."""
    start = _moment(event.start, "start", local)
    if _SECONDS in event:
        return start, start + timedelta(seconds=int(str(event[_SECONDS])))
    return start, _moment(event.end, "end", local)


def _moment(value: date, name: str, local: tzinfo | None) -> datetime:
    if isinstance(value, datetime) and value.utcoffset() is not None:
        return aware(value, name)
    if local is None:
        what = "has no time zone" if isinstance(value, datetime) else "is all day, and a day begins where people are"
        raise RoutingError(
            "", [f"it {what}. Pass timezone=, such as 'Europe/Berlin': the calendar has none of its own either"]
        )
    clock = value if isinstance(value, datetime) else datetime.combine(value, datetime.min.time(), fixed_offset.utc)
    return aware(clock.replace(tzinfo=local), name)


def _agents(event: Event, known: Mapping[str, str]) -> list[str]:
    """Return whose shift an event is."""
    title = _title(event)
    invited, others = _invited(event)
    found = invited or ([] if others else find_agent_emails(title) or _named(title, known))
    if not found and not others:
        raise RoutingError(
            "", ["it invites nobody, and its title has neither an e-mail address nor a name given in agents="]
        )
    return list({email.casefold(): email for email in found}.values())


def _invited(event: Event) -> tuple[list[str], bool]:
    """Return the people an event invites, and whether there are some who don't come."""
    invited: list[str] = []
    stay_away = False
    for attendee in _all(event, "ATTENDEE"):
        kind, role, answer = (_says(attendee.params, name) for name in ("CUTYPE", "ROLE", "PARTSTAT"))
        if kind in ("ROOM", "RESOURCE", "GROUP") or role == "NON-PARTICIPANT":
            continue
        if answer in ("DECLINED", "DELEGATED"):
            stay_away = True
            continue
        # PagerDuty leaves the scheme out; Apple has the address in a parameter.
        address = str(
            attendee.params.get("EMAIL") or re.sub("^mailto:", "", str(attendee), flags=re.IGNORECASE)
        ).strip()
        if not is_agent_email(address):
            raise RoutingError("", [f"it invites {redact(address)!r}, which is no e-mail address"])
        invited.append(address)
    return invited, stay_away


def _named(title: str, known: Mapping[str, str]) -> list[str]:
    """Return the agents whose names are in a title, longer ones first: Anne-Marie is not Anne."""
    rest, found = _folded(title), []
    for name, email in sorted(known.items(), key=lambda item: -len(item[0])):
        shorter = re.sub(rf"(?<![\w-]){re.escape(_folded(name))}(?![\w-])", "\0", rest)
        if shorter != rest:
            found.append(email)
            rest = shorter
    return found


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _says(properties: Mapping[str, Any], name: str) -> str:
    return str(properties.get(name) or "").upper()


def _title(event: Component) -> str:
    title = event.get("SUMMARY")
    return str(title[0] if isinstance(title, list) and title else title or "")[:_LONGEST_TITLE]


def _name(event: Component) -> str:
    return f"{redact(_title(event) or 'Event without a title')!r} ({_dt(event, 'DTSTART') or 'no start'})"
