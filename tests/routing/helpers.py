"""Short ways to write rosters, conversations and what became of them."""

from __future__ import annotations

import math
import os
from collections import Counter
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pendulum
from dateutil import tz
from hypothesis import settings
from hypothesis import strategies as st

from splashify_provider.routing import Conversation, Shift

# Zones of every kind in which people hand datetimes around; by name, where they have one.
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "America/St_Johns")
TZINFOS = (
    *map(ZoneInfo, ZONES),
    *map(pendulum.timezone, ZONES),
    *map(tz.gettz, ZONES),
    timezone(timedelta(hours=-3, minutes=-30)),
    pendulum.FixedTimezone(20_700),
    tz.tzoffset(None, -16_200),
)
# The same moment as the standard library's and as pendulum's datetime, which Airflow gives.
AS_TYPES = (lambda at: at, pendulum.instance, lambda at: pendulum.instance(at.astimezone(timezone.utc)))

AT = datetime(2026, 11, 22, 13, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)


def email(name):
    return f"{name}@example.com"


def shift(name, **fields):
    return Shift(email(name), AT - HOUR, AT + HOUR, **fields)


def phone(number):
    return f"+1 202 555 {number:04d}"


def chat(number, agent=None, owner=None, backup=None, language=None):
    agent, owner, backup = (name and email(name) for name in (agent, owner, backup))
    return Conversation(phone(number), agent, owner, language, backup)


def agents_of(plan):
    """Who is to hold each conversation."""
    return {
        decision.user_phone_number: decision.agent_email for decision in (*plan.kept, *plan.moves, *plan.unassigned)
    }


def loads_of(plan):
    return Counter(agent for agent in agents_of(plan).values() if agent)


def limit(total, weights, weight=1.0, headroom=0.25):
    return math.ceil((1 + headroom) * total * weight / sum(weights))


def examples(few):
    """Try a few examples in the fast suite, and many where ROUTING_EXAMPLES says how many times as many."""
    return settings(max_examples=few * int(os.environ.get("ROUTING_EXAMPLES", "1")), deadline=None)


def moments(first=datetime(2025, 1, 1), last=datetime(2028, 1, 1)):  # noqa: DTZ001 - where they are is drawn too
    """Draw aware datetimes of every type, in zones of every kind, with a fold or without."""
    plain = st.datetimes(first, last, timezones=st.sampled_from(TZINFOS))
    return st.builds(
        lambda at, fold, as_type: as_type(at.replace(fold=fold)),
        plain,
        st.sampled_from([0, 1]),
        st.sampled_from(AS_TYPES),
    )
