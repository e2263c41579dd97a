"""Whatever changes, fails, is refused or is killed: a green task has left every conversation with the right agent."""

from __future__ import annotations

import random
import threading
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowException

from splashify_provider.bulk import checkpoint
from splashify_provider.exceptions import AgentInactiveError, ConversationNotFoundError, ServerError, SplashifyError
from splashify_provider.operators.bulk import SplashifyBulkAssignOperator
from tests.bulk.simulation import client

AGENTS = ["ada@example.com", "ben@example.com", "eva@example.com"]
NUMBERS = [f"1202555{index:04d}" for index in range(40)]
ENTRY = 22
MOST_IN_FLIGHT = 4


class Killed(BaseException):
    """The worker is gone. What it does from now on reaches nobody."""


class World:
    """Splashify and Airflow's task state store, which outlive workers, and an accident now and then."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self.lock = chance, threading.RLock()
        self.holders: dict[str, str] = {}
        self.refusing_then: dict[str, set[str]] = {}  # who refused chats when a number was last assigned
        self.store: dict[str, str] = {}
        self.closed = set(chance.sample(NUMBERS, 4))
        self.begin_try(set(), **NONE)

    def begin_try(self, plan, *, failing, killed_at, faults, failures, refusing, disabled_at):
        self.is_dead, self.lines, self.failing = False, dict(plan), failing
        self.refusing, self.disabled_at, self.asked_in_vain = set(refusing), disabled_at, []
        self.killed_at, self.faults, self.failures = killed_at, faults, failures
        self.steps = self.acknowledged = self.in_flight = self.most_unsaved = 0
        self.saved_before = None

    def happens(self, probability):
        return self.chance.random() < probability

    def step(self):
        self.is_dead = self.is_dead or self.steps == self.killed_at
        self.steps += 1
        if self.is_dead:
            raise Killed

    def entries(self):
        return sum(len(page) for page in self.store.values()) // ENTRY

    # What the operator's client does.
    def send_assignment(self, number, agent):
        with self.lock:
            self.step()
            assert agent in self.lines[number], "not planned"
            at_once = 1 if self.disabled_at is None else MOST_IN_FLIGHT
            assert self.asked_in_vain.count(agent) < at_once, "asked again"
            if self.steps == self.disabled_at:
                self.refusing.add(self.chance.choice(AGENTS))
            if self.saved_before is None:
                self.saved_before = self.entries()
            self.in_flight += 1
            unsaved = self.in_flight + self.acknowledged - (self.entries() - self.saved_before)
            self.most_unsaved = max(self.most_unsaved, unsaved)
            try:
                if number in self.closed:
                    raise ConversationNotFoundError(400, "closed")
                if self.happens(self.failures):
                    raise ServerError(500, "down")
                if agent in self.refusing:
                    self.asked_in_vain.append(agent)
                    raise AgentInactiveError(400, "inactive")
                self.holders[number], self.refusing_then[number] = agent, set(self.refusing)
                if self.happens(self.failures):
                    raise ServerError(502, "it has arrived, but who knows")
                self.step()
                self.acknowledged += 1
                return "assigned"
            finally:
                self.in_flight -= 1

    # What the task state store does.
    def call(self, name, work):
        with self.lock:
            self.step()
            if self.happens(1.0 if name in self.failing else self.faults):
                if self.happens(0.5):
                    work()
                raise RuntimeError("API server is away")
            result = work()
            self.step()
            return result

    def get(self, key, default=None):
        return self.call("get", lambda: self.store.get(key, default))

    def set(self, key, value):
        self.call("set", lambda: self.store.__setitem__(key, value))

    def clear(self):
        self.call("clear", self.store.clear)


def one_try(world, plan, key, chance, **arguments):
    """Run one try. Return its summary if it is green, else what it ended with."""
    rows = [
        {"user_phone_number": number, "agent_email": agent, "fallback_agents": list(fallbacks)}
        for number, (agent, *fallbacks) in plan
    ]
    operator = SplashifyBulkAssignOperator(
        task_id="assign",
        assignments=chance.sample(rows, len(rows)),
        on_conversation_not_found="skip",
        max_consecutive_failures=1000,
        **arguments,
    )
    operator.hook = SimpleNamespace(client=client(world.send_assignment, max_attempts=1, name=key))
    try:
        return operator.execute({"task_state_store": world, "run_id": "r"})
    except (AirflowException, SplashifyError, Killed) as error:
        return error


def plan_of(chance, before):
    """Plan who is in line for most of the customers, most of them as before."""
    chosen = sorted(chance.sample(NUMBERS, chance.randrange(1, len(NUMBERS))))
    change = chance.choice([0.0, 0.2, 1.0])
    return {
        (
            number,
            before[number]
            if number in before and chance.random() >= change
            else tuple(chance.sample(AGENTS, chance.choice([1, 2, 3]))),
        )
        for number in chosen
    }


def accidents(chance):
    """Choose how often what fails in a try, and what fails for all of it."""
    return {
        "failing": frozenset(name for name in ("get", "set", "clear") if chance.random() < 0.1),
        "killed_at": chance.choice([None, chance.randrange(15), chance.randrange(100)]),
        "faults": chance.choice([0.0, 0.0, 0.2]),
        "failures": chance.choice([0.0, 0.1, 0.1]),
        **refusals(chance),
    }


def refusals(chance):
    """Choose who refuses chats, from the start or later."""
    return {
        "refusing": chance.sample(AGENTS, chance.choice([0, 0, 1, 2])),
        "disabled_at": chance.choice([None, chance.randrange(60)]),
    }


NONE = {
    "failing": frozenset(),
    "killed_at": None,
    "faults": 0.0,
    "failures": 0.0,
    "refusing": (),
    "disabled_at": None,
}


@pytest.mark.parametrize("part", range(4))
def test_a_green_task_has_left_every_conversation_with_the_first_in_line_who_was_not_refused(monkeypatch, part):
    monkeypatch.setattr(checkpoint, "CHUNK", 8)
    monkeypatch.setattr(checkpoint, "PAGE", 5)
    monkeypatch.setattr(checkpoint.log, "disabled", True)
    greens = 0  # with somebody who was next in line
    for seed in range(part * 100, part * 100 + 100):
        chance = random.Random(seed)
        world, plans = World(chance), [plan_of(chance, {})]
        tries = chance.randrange(2, 8)
        for number in range(tries + 1):
            if chance.random() < 0.2:
                plans.append(plan_of(chance, dict(plans[-1])))
            elif chance.random() < 0.6:
                plans.append(chance.choice(plans))  # back to an earlier one
            world.begin_try(plans[-1], **(NONE if number == tries else accidents(chance)))
            key = chance.choice(["key", "key", "another key"])
            end = one_try(world, plans[-1], key, chance, max_in_flight=chance.choice([1, 1, MOST_IN_FLIGHT]))
            assert world.most_unsaved <= checkpoint.CHUNK, seed
            if isinstance(end, dict):
                greens += any(world.holders.get(number) in line[1:] for number, line in plans[-1])
                assert wrong(world, plans[-1]) == [], seed
                assert not world.store, seed
        assert isinstance(end, dict), seed
    assert greens > 5  # some 15: threads make it vary


def wrong(world, plan):
    """Give the numbers whose holder was not the first in line who took chats when they got it."""
    return [
        number
        for number, line in plan
        if number not in world.closed
        and (
            world.holders.get(number) not in line
            or not set(line[: line.index(world.holders[number])]) <= world.refusing_then[number]
        )
    ]
