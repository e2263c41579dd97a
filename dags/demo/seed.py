"""A believable support team: its roster, its conversations, and the same workspace for the sandbox."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

SCHEMA = Path(__file__).with_name("schema.sql")
ZONE = ZoneInfo("Europe/Berlin")
SHIFTS = {"early": (6, 14), "late": (14, 22), "night": (22, 6)}
TEAMS = {
    "early": ["Ada Lindqvist", "Bilal Haddad", "Carmen Ortiz", "Dina Rao"],
    "late": ["Emeka Obi", "Freya Holm", "Goran Ilic", "Hana Sato"],
    "night": ["Ivo Marek", "Jaya Menon", "Kofi Asante", "Lucia Prado"],
}
LANGUAGES = ["en", "en,de", "en,es", "en,pt-BR,es"]  # of the first in each team, the second, ...
FIRST = [
    "Amir",
    "Bea",
    "Cai",
    "Dov",
    "Eva",
    "Finn",
    "Gia",
    "Hugo",
    "Iris",
    "Jo",
    "Kai",
    "Lea",
    "Mo",
    "Noa",
    "Oto",
    "Pia",
    "Quim",
    "Rui",
    "Sol",
    "Tess",
    "Uma",
    "Vito",
    "Wren",
    "Yara",
    "Zoe",
]
LAST = [
    "Adler",
    "Brandt",
    "Cruz",
    "Diaz",
    "Engel",
    "Fonda",
    "Greco",
    "Hale",
    "Ivanov",
    "Jansen",
    "Kruse",
    "Lopez",
    "Moran",
    "Nolan",
    "Okafor",
    "Park",
]
# Numbers that exist for fiction only: 555-0100 to 555-0199.
AREA_CODES = (202, 312, 415)


@dataclass(frozen=True)
class Team:
    """Everything the demo starts from, made for one moment."""

    roster: list[tuple[str, str, str]]
    conversations: list[tuple[str, str | None, str]]
    sandbox: dict[str, Any]
    disabled: str
    agents: list[tuple[str, str, int]]
    customers: list[tuple[str, str | None, str | None, str | None]]


def email(name: str) -> str:
    """Give a member of the team their address."""
    return name.split()[0].lower() + "@example.com"


def shift_at(moment: datetime) -> str:
    """Name the shift on duty."""
    hour = moment.astimezone(ZONE).hour
    return "early" if 6 <= hour < 14 else "late" if 14 <= hour < 22 else "night"


def make_team(moment: datetime) -> Team:
    """Make a team as it stands just before its conversations are handed over.

    Of 290 conversations 250 are open. The shift on duty holds most of them, the outgoing one and nobody the
    other 60: those have to move. One agent on duty is disabled in Splashify, and some conversations have been
    resolved there since the table was written.

    :param moment: An aware time within the incoming shift.
    :return: The same for the same shift.
    """
    chance = random.Random(7)  # noqa: S311 - made up, and the same every time
    incoming = shift_at(moment)
    outgoing = list(SHIFTS)[list(SHIFTS).index(incoming) - 1]
    disabled = email(TEAMS[incoming][-1])

    roster = []
    today = moment.astimezone(ZONE).replace(hour=0, minute=0, second=0, microsecond=0)
    for day in (today + timedelta(days=offset) for offset in range(-7, 8)):
        for shift, (start, end) in SHIFTS.items():
            starts_at = day.replace(hour=start)
            ends_at = (day + timedelta(days=start > end)).replace(hour=end)
            roster += [(email(name), starts_at.isoformat(), ends_at.isoformat()) for name in TEAMS[shift]]

    conversations, chats = [], []
    phones = [f"+1 {area} 555-01{line:02d}" for area in AREA_CODES for line in range(100)][:290]
    for number, phone in enumerate(phones):
        if number < 190:
            holder = email(chance.choice(TEAMS[incoming][:-1]))
        elif number < 238:
            holder = email(chance.choice(TEAMS[outgoing]))
        else:
            holder = None if number < 250 else email(chance.choice(TEAMS[outgoing]))
        resolved_since = 230 <= number < 235
        conversations.append((phone, holder, "open" if number < 250 else "closed"))
        chats.append(
            {
                "user_phone_number": "".join(filter(str.isdigit, phone)),
                "name": f"{chance.choice(FIRST)} {chance.choice(LAST)}",
                "agent_email": holder,
                "open": number < 250 and not resolved_since,
            }
        )
    agents = [
        {"email": email(name), "name": name, "active": email(name) != disabled}
        for team in TEAMS.values()
        for name in team
    ]
    everybody = [
        (email(name), languages, 1) for team in TEAMS.values() for name, languages in zip(team, LANGUAGES, strict=True)
    ]
    customers = [
        (phone, *(email(name) for name in chance.sample(TEAMS[incoming] + TEAMS[outgoing], 2)), None)
        if number % 3 == 0
        else (phone, None, None, chance.choice(["en", "de", "es", "pt", "fr"]))
        for number, phone in enumerate(phones)
        if number % 6
    ]
    sandbox = {"agents": agents, "conversations": chats}
    return Team(roster, conversations, sandbox, disabled, everybody, customers)


def write_database(path: Path, team: Team) -> None:
    """Write roster and conversations to a new SQLite file."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(SCHEMA.read_text())
        database.executemany("INSERT INTO roster VALUES (?, ?, ?)", team.roster)
        database.executemany("INSERT INTO conversations VALUES (?, ?, ?)", team.conversations)
        database.executemany("INSERT INTO agents VALUES (?, ?, ?)", team.agents)
        database.executemany("INSERT INTO customers VALUES (?, ?, ?, ?)", team.customers)
