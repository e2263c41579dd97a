"""How much work a calendar may ask for: whoever can write into one can make it as large and as odd as they like."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from dateutil.rrule import rrulestr

from splashify_provider.exceptions import RoutingError
from splashify_provider.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

_MOST_BYTES = 10_000_000  # some 25,000 events of Google's; reading them takes about eight seconds
_LONGEST_LINE = 200_000  # characters, folded lines put together
_MOST_ZONE_RULES, _MOST_ZONE_DATES = 400, 2_000  # in all time zones that it defines: icalendar expands them
# The properties that shifts and time zones are made of. The rest is not even read: it may be large.
# fmt: off
_NEEDED = frozenset((
    "BEGIN", "END", "VERSION", "PRODID", "CALSCALE", "X-WR-TIMEZONE",
    "UID", "SEQUENCE", "DTSTART", "DTEND", "DURATION", "RRULE",
    "RDATE", "EXDATE", "EXRULE", "RECURRENCE-ID", "SUMMARY", "STATUS",
    "ATTENDEE", "TZID", "TZOFFSETFROM", "TZOFFSETTO", "TZNAME",
))
# fmt: on
_PROPERTY = re.compile(r"([A-Za-z0-9-]+)[;:]")
_MOST_TIMES_A_DAY = 96  # every quarter of an hour
_MOST_STEPS = 150_000  # of one rule: seventeen years by the hour, four hundred by the day
_MOST_STEPS_IN_ALL = 3_000_000  # they take a few seconds; a thousand daily series of eight years
# How many steps each counts as: dateutil looks at every day of a month or a year.
_FREQUENCIES = {"HOURLY": 1, "DAILY": 1, "WEEKLY": 1, "MONTHLY": 5, "YEARLY": 20}
# By the standard (RFC 5545, 3.3.10) these need longer steps; with shorter ones they may never find a date.
_ONLY_WITH = {"BYYEARDAY": ("YEARLY",), "BYWEEKNO": ("YEARLY",), "BYSETPOS": ("WEEKLY", "MONTHLY", "YEARLY")}


def bounded_text(text: str) -> str:
    """Return what shifts and time zones are made of in a calendar, unfolded.

    :param text: The calendar.
    :return: Its lines, without properties that are not read.
    :raises RoutingError: If the libraries would read it without end.
    """
    if len(text) > _MOST_BYTES:
        raise RoutingError(
            f"This calendar has {len(text):,} characters, and at most {_MOST_BYTES:,} are read.\n"
            "Export a shorter period of it."
        )
    lines = [line for line in re.sub(r"\r?\n[ \t]", "", text).splitlines() if _is_needed(line)]
    if (longest := max(map(len, lines), default=0)) > _LONGEST_LINE:
        raise RoutingError(f"This calendar has a line of {longest:,} characters; at most {_LONGEST_LINE:,} are read.")
    zones = list(_zones(lines))
    problems = [problem for zone in zones for problem in _problems_of_zone(zone)]
    for name, most in (("RRULE", _MOST_ZONE_RULES), ("RDATE", _MOST_ZONE_DATES)):
        count = sum(line.count(",") + 1 for zone in zones for line in zone if line.upper().startswith(name))
        if count > most:
            problems.append(f"they have {count:,} of {name}; at most {most:,} are read")
    if problems:
        raise RoutingError("This calendar's time zones can't be used:", problems)
    return "\r\n".join([*lines, ""])


def _is_needed(line: str) -> bool:
    name = _PROPERTY.match(line)
    return name is None or name[1].upper() in _NEEDED


def _zones(lines: list[str]) -> Iterator[list[str]]:
    """Return the lines of each time zone that the calendar defines."""
    zone: list[str] | None = None
    for line in lines:
        name = line.strip().upper()
        if name == "BEGIN:VTIMEZONE":
            zone = []
        elif name == "END:VTIMEZONE" and zone is not None:
            yield zone
            zone = None
        elif zone is not None:
            zone.append(line)


def _problems_of_zone(lines: list[str]) -> Iterator[str]:
    """Check a zone's definition, whose rules icalendar expands as soon as it reads them."""
    names = [line.partition(":")[2].strip() for line in lines if re.match("TZID[;:]", line, re.IGNORECASE)]
    shown = redact(names[0] if names else "without a name")
    if len(names) != 1:
        yield f"zone {shown!r} has {len(names)} names (TZID)"
    for line in lines:
        if re.match("RRULE[;:]", line, re.IGNORECASE):
            rule = line.partition(":")[2].upper()
            if "FREQ=YEARLY" not in rule or re.search("BY(HOUR|MINUTE|SECOND|YEARDAY|WEEKNO|SETPOS)", rule):
                yield f"zone {shown!r} changes its offset by {redact(rule)}, not on a day of every year"


class Steps:
    """Counts the steps that rules take, so that looking for dates ends, and ends the same on any machine."""

    def __init__(self) -> None:
        self._left_in_all = _MOST_STEPS_IN_ALL
        self._left = 0

    def problems_of(self, rule: Any, start: datetime, end: datetime) -> Iterator[str]:
        """Check that a rule's dates up to a moment can be found in few steps.

        :param rule: A recurrence rule as icalendar reads it.
        :param start: Its start; the date that counts, without a zone.
        :param end: The moment, without a zone.
        :return: What is wrong with it.
        """
        frequency = str((rule.get("FREQ") or ["nothing"])[0])
        if frequency not in _FREQUENCIES:
            yield f"it recurs by FREQ={redact(frequency)}, not HOURLY, DAILY, WEEKLY, MONTHLY or YEARLY"
            return
        interval = (rule.get("INTERVAL") or [1])[0]
        per_step = math.prod(len(rule.get(name) or [0]) for name in ("BYHOUR", "BYMINUTE", "BYSECOND"))
        times = per_step * (24 if frequency == "HOURLY" else 1)
        odd = [name for name, allowed in _ONLY_WITH.items() if name in rule and frequency not in allowed]
        if not isinstance(interval, int) or not 0 < interval <= 1000:
            yield f"it recurs at an INTERVAL of {redact(interval)}, which must be 1 to 1000"
        elif times > _MOST_TIMES_A_DAY:
            yield f"it recurs {times:,} times a day; at most {_MOST_TIMES_A_DAY} are read"
        elif odd:
            yield f"it recurs by {' and '.join(odd)}, which {frequency} does not allow"
        else:
            cost = _FREQUENCIES[frequency] + per_step // 4
            yield from self._problems_of_steps(rule.to_ical().decode(), start, end, interval, cost)

    def _problems_of_steps(self, text: str, start: datetime, end: datetime, interval: int, cost: int) -> Iterator[str]:
        self._left = _MOST_STEPS
        try:
            rule: Any = rrulestr(text, dtstart=start, ignoretz=True)
            counted = rule.replace(interval=_CountedInterval.made(interval, self, cost))
            for date in counted.xafter(start, inc=True):
                if date > end:
                    break
        except _TooManySteps:
            if self._left_in_all < 0:
                yield "this calendar's rules take too many steps in all. Export a shorter period, or fewer series"
            else:
                yield f"finding when it recurs takes too many steps since its start ({start}). Is its start right?"
        except Exception as error:  # of many kinds, for rules that make no sense
            yield f"its rule can't be read ({redact(error)})"

    def spend(self, cost: int) -> None:
        """Count steps.

        :param cost: How many.
        :raises _TooManySteps: If too many have been taken.
        """
        self._left -= cost
        self._left_in_all -= cost
        if self._left < 0 or self._left_in_all < 0:
            raise _TooManySteps


class _TooManySteps(Exception):  # noqa: N818 - never seen outside
    pass


class _CountedInterval(int):
    """A rule's interval that counts its uses: dateutil adds it at every step, also while it finds no date."""

    _steps: Steps
    _cost: int

    @classmethod
    def made(cls, interval: int, steps: Steps, cost: int) -> _CountedInterval:
        self = cls(interval)
        self._steps, self._cost = steps, cost
        return self

    def __radd__(self, other: int) -> int:
        self._steps.spend(self._cost)
        return other + int(self)

    def __mul__(self, other: int) -> int:
        self._steps.spend(self._cost)
        return int(self) * other
