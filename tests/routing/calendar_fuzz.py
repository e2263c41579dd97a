"""Calendars as nobody should write them. To read many: python -m tests.routing.calendar_fuzz SECONDS SEED"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from datetime import datetime, timedelta, timezone

from splashify_provider.routing import RoutingError, Shift, shifts_from_ical

START = datetime(2026, 10, 19, tzinfo=timezone.utc)
AGENTS = {"Ada Lindqvist": "ada@example.com", "Anne": "anne@example.com", "Anne-Marie": "am@example.com"}

# Each as people write it, and as nobody should.
TIMES = (
    ["20261019T080000Z", "20261019T230000Z", "20061018T220000Z", "20261025T013000Z"],
    ["20261019T080000", "20261020", "02060101T000000Z", "00010101", "99991231", "99991231T235959Z", "20261325T080000",
     "20261019T256199Z", "yesterday", "", "2026-10-19", "20261025T023000"],
)  # fmt: skip
PARAMETERS = (
    [""],
    [";VALUE=DATE", ";VALUE=DATE-TIME", ";TZID=Europe/Berlin", ";TZID=Our office", ";TZID=Mars", ";TZID=",
     ";TZID=Europe", ';TZID="Europe/Berlin"', ";VALUE=PERIOD", ";RANGE=THISANDFUTURE", ";tzid = UTC",
     ";TZID=/x/y/Europe/Berlin", ";TZID=W. Europe Standard Time", ';X="', ";;", ";VALUE=TEXT", ';TZID=""',
     ';TZID="Europe/Berlin'],
)  # fmt: skip
NUMBERS = ["0", "1", "-1", "-31", "53", "60", "366", "-366", "999", "1000000", "9" * 30, "x", "", "1MO", "\u0661"]
PARTS = {
    "INTERVAL": ["1", "2", "3", "5", "7"], "COUNT": ["1", "9", "400", "99999"], "UNTIL": TIMES[0],
    "BYMONTH": ["1", "10", "11"], "BYMONTHDAY": ["1", "19", "20", "-1", "30"], "BYYEARDAY": ["1", "292", "-73"],
    "BYWEEKNO": ["1", "43"], "BYDAY": ["MO", "TU", "1MO", "-1SU", "SU"], "BYHOUR": ["6", "14"], "BYMINUTE": ["0", "30"],
    "BYSECOND": ["0"], "BYSETPOS": ["1", "-1"], "WKST": ["MO", "SU"], "BYEASTER": ["0"], "RSCALE": ["GREGORIAN"],
}  # fmt: skip
FREQUENCIES = (["HOURLY", "DAILY", "WEEKLY", "MONTHLY", "YEARLY"], ["MINUTELY", "SECONDLY", "NEVER", ""])
TITLES = (
    ["ada@example.com", "Ada Lindqvist", "On call: Anne-Marie & Anne"],
    ["", "+1 202 555 0101", "a" * 3000, "a@b " * 200, "Anne\\, the " * 30],
)
ATTENDEES = (
    [":mailto:ada@example.com", ":ben@example.com", ";PARTSTAT=DECLINED:mailto:ada@example.com",
     ";CUTYPE=GROUP:mailto:team@example.com",
     ';MEMBER="mailto:a@x.org","mailto:b@x.org":mailto:d@x.org', ';CN="a;b:c":mailto:c@x.org',
     ";EMAIL=ada@example.com:/principals/1"],
    [":/principals/7", ":", ":MAILTO:m\u00fcller@example.com", ":a@x", ';CN="unfinished:mailto:c@x.org', ";=:;",
     ":12025550101"],
)  # fmt: skip
LINES = {
    "DURATION": (["PT8H", "P1D"], ["-PT1H", "P9999999D", "PT0S", "P", "P1W2D", "PT999999999999H"]),
    "SUMMARY": TITLES,
    "STATUS": (["CONFIRMED"], ["CANCELLED", "?"]),
    "UID": (["1", "2"], [""]),
    "SEQUENCE": (["0", "1"], NUMBERS),
    "DESCRIPTION": TITLES,
}
TIMED = ("DTSTART", "DTEND", "RDATE", "EXDATE", "RECURRENCE-ID")
STRAY = ["", " folded", "no colon", ":", "\t", "BEGIN:VALARM", "END:VEVENT"]


def pick(chance: random.Random, usual: list[str], odd: list[str]) -> str:
    """Choose a usual value, or now and then an odd one."""
    return chance.choice(odd if chance.random() < 0.15 else usual)


def line(chance: random.Random) -> str:
    """Write one line of an event."""
    name = chance.choice([*TIMED, "RRULE", "RRULE", "RRULE", "ATTENDEE", "EXRULE", "", *LINES])
    if name == "RRULE" or (name == "EXRULE" and chance.random() < 0.1):
        return f"{name}:{rule(chance)}"
    if name == "ATTENDEE":
        return name + pick(chance, *ATTENDEES)
    if name in LINES:
        return f"{name}:{pick(chance, *LINES[name])}"
    if name in TIMED:
        times = ",".join(pick(chance, *TIMES) for _ in range(chance.choice([1, 1, 1, 1, 1, 1, 2, 50])))
        return f"{name}{pick(chance, *PARAMETERS)}:{times}{pick(chance, [''], ['/PT1H'])}"
    return pick(chance, ["X-NOTE:none"], STRAY)


def rule(chance: random.Random) -> str:
    """Write a rule."""
    parts = [f"FREQ={pick(chance, *FREQUENCIES)}"] if chance.random() < 0.98 else []
    for name in chance.sample([*PARTS], chance.choice([0, 1, 1, 2, 2, 3, 6])):
        several = 1 if name in ("INTERVAL", "COUNT", "UNTIL", "WKST") and chance.random() < 0.95 else 2
        values = [pick(chance, PARTS[name], NUMBERS) for _ in range(chance.choice([1, several, several, several * 20]))]
        parts.append(f"{name}={','.join(values[: 1 if several == 1 else None])}")
    return ";".join(parts)


def zone(chance: random.Random) -> str:
    """Write a zone's definition."""
    lines = ["BEGIN:VTIMEZONE", *["TZID:Our office"] * chance.choice([1, 1, 1, 1, 0, 2])]
    for kind in chance.choices(["DAYLIGHT", "STANDARD"], k=chance.choice([2, 2, 2, 1, 1, 0, 30])):
        own = [
            f"TZOFFSETFROM:{pick(chance, ['+0100', '+0200'], ['-1234', '+9999', 'x'])}",
            f"TZOFFSETTO:{pick(chance, ['+0200', '+0100'], ['-0000', ''])}",
            f"DTSTART:{pick(chance, ['19700329T020000', '16010101T000000'], TIMES[1])}",
            f"RRULE:{pick(chance, ['FREQ=YEARLY;BYMONTH=3;BYDAY=-1SU'], [rule(chance)])}",
        ]
        if chance.random() < 0.1:
            own.pop(chance.randrange(len(own)))
        lines += [f"BEGIN:{kind}", *own, f"END:{kind}"]
    return "\r\n".join([*lines, "END:VTIMEZONE"])


def calendar(chance: random.Random) -> str:
    """Write a calendar that is right in most of its parts."""
    events = []
    for number in range(chance.choice([1, 1, 1, 2, 2, 3, 8])):
        lines = [f"UID:{number if chance.random() < 0.9 else 1}", "DTSTART:20261019T080000Z", "DTEND:20261019T160000Z"]
        lines += ["SUMMARY:ada@example.com"] if chance.random() < 0.95 else []
        for _ in range(chance.choice([0, 1, 1, 2, 2, 3, 5])):
            new = line(chance)
            same = [old for old in lines if old.split(":")[0].split(";")[0] == new.split(":")[0].split(";")[0]]
            if same and chance.random() < 0.95:
                lines.remove(same[0])
            lines.insert(chance.randrange(len(lines) + 1), new)
        events.append("\r\n".join(["BEGIN:VEVENT", *lines, "END:VEVENT"]))
    head = pick(chance, ["VERSION:2.0", "X-WR-TIMEZONE:Europe/Berlin"], ["X-WR-TIMEZONE:?", "CALSCALE:LUNAR"])
    zones = [zone(chance)] if chance.random() < 0.4 else []
    text = "\r\n".join(["BEGIN:VCALENDAR", head, *zones, *events, "END:VCALENDAR", ""])
    return damaged(text, chance) if chance.random() < 0.1 else text


def damaged(text: str, chance: random.Random) -> str:
    """Cut something out of a text, repeat it, or put something else there."""
    start = chance.randrange(len(text))
    end = min(len(text), start + chance.choice([1, 1, 10, 200]))
    other = ["", text[start:end] * 2, "\0", "\u2028", '"', "\r\n ", ":" * 50, "\udcff", "\u0301" * 20]
    return text[:start] + chance.choice(other) + text[end:]


def read(text: str, chance: random.Random) -> list[Shift] | RoutingError:
    """Return the shifts of a calendar, or the error that refuses it. Any other error is a fault."""
    days = chance.choice([1, 1, 7, 31])
    local = chance.choice([None, "Europe/Berlin"])
    try:
        return shifts_from_ical(text, START, START + timedelta(days=days), timezone=local, agents=AGENTS)
    except RoutingError as error:
        return error


def main() -> None:
    """Fuzz for so many seconds, from a seed on."""
    seconds, seed = float(sys.argv[1]), int(sys.argv[2])
    end, tally, slowest = time.monotonic() + seconds, Counter[str](), 0.0
    while time.monotonic() < end:
        text = calendar(random.Random(seed))
        started = time.process_time()
        try:
            found = read(text, random.Random(seed))
        except BaseException:
            print(f"seed {seed}:\n{text}")  # noqa: T201
            raise
        took = time.process_time() - started
        if took > slowest:
            slowest = took
            print(f"seed {seed} took {took:.2f} s: {str(found)[:150]!r}", flush=True)  # noqa: T201
        tally[type(found).__name__ if isinstance(found, RoutingError) else "shifts" if found else "none"] += 1
        assert "202 555" not in str(found)
        seed += 1
    print(f"up to seed {seed - 1}: {dict(tally)}, the slowest {slowest:.2f} s")  # noqa: T201


if __name__ == "__main__":
    main()
