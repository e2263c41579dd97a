"""Short ways to write rosters, conversations and what became of them."""

from __future__ import annotations

import math
from collections import Counter
from datetime import datetime, timedelta, timezone

from splashify_provider.routing import Conversation, Shift

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


def limit(total, weights, weight=1.0, slack=0.25):
    return math.ceil((1 + slack) * total * weight / sum(weights))
