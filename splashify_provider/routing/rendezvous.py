"""Weighted rendezvous hashing with bounded loads: everybody scores on every key, the highest with room takes it.

A score depends on one agent and one key only, so somebody who joins or leaves changes nothing between the others, and
the same names give the same choice on any machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2b
from heapq import nlargest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_BITS = 64
_MASK = (1 << _BITS) - 1
_ODD, _ODD_TOO = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93  # odd, with bits well spread: what multiplying mixes best by


def hash_of(text: str) -> int:
    """Return 64 bits for a text, the same on every machine.

    :param text: The text.
    :return: The number.
    """
    return int.from_bytes(blake2b(text.encode(errors="replace"), digest_size=_BITS // 8).digest(), "big")


@dataclass(eq=False)
class Agent:
    """Somebody on duty, and how much they hold.

    :param email: The e-mail address, as the roster spells it.
    :param weight: Their share relative to the others'.
    :param languages: What they speak.
    :param limit: How many conversations they may hold.
    :param load: How many they hold.
    """

    email: str
    weight: float
    languages: frozenset[str]
    limit: int = 0
    load: int = 0

    def __post_init__(self) -> None:
        self.number = hash_of(self.email.casefold())

    @property
    def room(self) -> int:
        """How many more conversations they may hold. What stays with them in any case may be more than their limit."""
        return max(0, self.limit - self.load)


class Group:
    """Equally eligible agents.

    :param agents: The agents.
    """

    def __init__(self, agents: Iterable[Agent]) -> None:
        self.members = frozenset(agents)
        self._all = sorted(self.members, key=lambda agent: agent.number)
        self._all_numbers = [agent.number for agent in self._all]
        self._free, self._numbers = self._all.copy(), self._all_numbers.copy()  # of those with room
        self._is_even = len({agent.weight for agent in self._all}) <= 1

    def first_choice(self, number: int) -> Agent | None:
        """Return who of those with room scores highest.

        :param number: The key's hash.
        :return: The agent, or None if all are at their limits.
        """
        while self._free:
            scores = self._scores(number, self._free, self._numbers)
            best = scores.index(max(scores))
            if self._free[best].room > 0:
                return self._free[best]
            del self._free[best], self._numbers[best]  # full for good: loads only grow
        return None

    def highest(self, number: int, count: int) -> list[Agent]:
        """Return who scores highest, with room or without.

        :param number: The key's hash.
        :param count: How many, at most.
        :return: The agents, the highest score first.
        """
        scores = self._scores(number, self._all, self._all_numbers)
        return [self._all[place] for place in nlargest(count, range(len(scores)), key=scores.__getitem__)]

    def _scores(self, number: int, agents: list[Agent], numbers: list[int]) -> list[float]:
        # A hash of agent and key together, from the hashes of each: the plan's innermost loop.
        scores: list[float] = [
            ((mixed := (number ^ own) * _ODD & _MASK) ^ mixed >> 32) * _ODD_TOO & _MASK for own in numbers
        ]
        if self._is_even:
            return scores
        return [
            math.log((score + 0.5) / (1 << _BITS)) / agent.weight for score, agent in zip(scores, agents, strict=True)
        ]
