from __future__ import annotations

import math
from collections import Counter

from splashify_provider.routing.rendezvous import Agent, Group, hash_of
from tests.routing.helpers import email

NAMES = [f"agent{number}" for number in range(6)]


def choices(team, keys):
    group = Group(team)
    return [group.first_choice(hash_of(str(key))).email for key in range(keys)]


def agent(name, weight=1.0, limit=10**9):
    return Agent(email(name), weight, frozenset(), limit)


def test_keys_spread_by_weight():
    loads = Counter(choices([agent("ada", 1), agent("ben", 2), agent("cleo", 5)], 4000))
    for name, share in (("ada", 500), ("ben", 1000), ("cleo", 2500)):
        assert abs(loads[email(name)] - share) < 5 * math.sqrt(share)


def test_scores_of_two_agents_have_nothing_to_do_with_each_other():
    # The keys that go to Ada when Ben is away come from Ben's by chance, in equal parts for each other agent.
    team = [agent(name) for name in NAMES]
    before = choices(team, 6000)
    for gone in team:
        after = choices([each for each in team if each is not gone], 6000)
        heirs = Counter(new for old, new in zip(before, after, strict=True) if old == gone.email)
        assert len(heirs) == len(NAMES) - 1
        assert all(abs(count - 200) < 5 * math.sqrt(200) for count in heirs.values())


def test_whoever_is_full_is_passed_over_and_the_others_keep_their_order():
    team = [agent(name) for name in NAMES]
    group, key = Group(team), hash_of("919876543210")
    order = []
    while choice := group.first_choice(key):
        order.append(choice)
        choice.load = choice.limit
    assert len(order) == len(team)
    for each in team:
        each.load = 0
    without_second = Group(each for each in team if each is not order[1])
    order[0].load = order[0].limit
    assert without_second.first_choice(key) is order[2]


def test_the_highest_scores_are_the_order_of_choice_with_room_or_without():
    team = [agent(name, weight) for name, weight in zip(NAMES, (1, 2, 5, 1, 1, 3), strict=True)]
    for key in range(200):
        group, order = Group(team), []
        while choice := group.first_choice(hash_of(str(key))):
            order.append(choice)
            choice.load = choice.limit
        assert group.highest(hash_of(str(key)), 4) == order[:4]
        for each in team:
            each.load = 0
