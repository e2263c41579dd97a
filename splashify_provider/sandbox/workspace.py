"""What a Splashify workspace holds: agents, conversations, keys with their rate limit, and what happened."""

from __future__ import annotations

import heapq
import json
import re
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from splashify_provider.agent_email import validate_agent_email
from splashify_provider.rate_limit import VENDOR_LIMIT, WINDOW, SlidingWindow
from splashify_provider.redaction import mask_phone_number

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_KEY = "sk_live_sandbox"
# Caps on what clients can make it keep. Requests without a valid key don't push the others' events out.
_EVENTS_KEPT = 200
_ANONYMOUS_EVENTS_KEPT = 20
_SCENARIOS_KEPT = 100_000
_AGENTS_KEPT = 200
_LONGEST_TEXT = 200
# The most that the page is told of an inbox and of what happened, however many conversations there are.
_CHATS_SHOWN = 24
_EVENTS_SHOWN = 60
_DEFAULT_SEED = Path(__file__).with_name("default_seed.json")


@dataclass
class Agent:
    """A team member. ``active`` is false where their access is disabled."""

    email: str
    name: str = ""
    active: bool = True


@dataclass
class Conversation:
    """A customer's chat and who holds it: an agent's e-mail, or None for unassigned."""

    user_phone_number: str
    name: str = ""
    agent_email: str | None = None
    open: bool = True
    moved_at: float | None = None


def _locked(method: Callable[Concatenate[Workspace, P], T]) -> Callable[Concatenate[Workspace, P], T]:
    """Let one thread at a time into the workspace."""

    @wraps(method)
    def call(self: Workspace, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self.lock:
            return method(self, *args, **kwargs)

    return call


@dataclass
class Workspace:
    """The sandbox's whole state. Its methods may be called from any thread while it is served.

    :param keys: The API keys that are accepted.
    :param rate_limit: Requests per ``window`` and key.
    :param window: Seconds.
    :param clock: Gives the time in seconds.
    :param scenario_names: The scenarios that may be chosen.
    """

    keys: frozenset[str] = frozenset({DEFAULT_KEY})
    rate_limit: int = VENDOR_LIMIT
    window: float = WINDOW
    clock: Callable[[], float] = time.monotonic
    scenario_names: Collection[str] = ()
    agents: dict[str, Agent] = field(default_factory=dict)
    conversations: dict[str, Conversation] = field(default_factory=dict)
    # By phone number or key: the scenario's name, and how many requests it is still for (None: all).
    scenarios: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    windows: dict[str, SlidingWindow] = field(default_factory=dict)  # by key, of those that are accepted
    answers: Counter[int] = field(default_factory=Counter)
    # By the agent that requests with a valid key named, "" for none: of as many agents as are kept.
    requests_by_agent: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    events: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_EVENTS_KEPT))
    anonymous_events: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_ANONYMOUS_EVENTS_KEPT))
    version: int = 0
    lock: Any = field(default_factory=RLock, init=False, repr=False, compare=False)

    @_locked
    def load(self, seed: Mapping[str, Any] | Path | None = None) -> None:
        """Add what a seed describes.

        :param seed: ``agents`` and ``conversations`` (lists of their fields) and ``scenarios`` (by phone
            number or key), as a mapping or a JSON file; a small example workspace unless given.
        :raises ValueError: If it has something else, or a number is not digits only.
        """
        path = _DEFAULT_SEED if seed is None else seed
        content = json.loads(path.read_text(encoding="utf-8")) if isinstance(path, Path) else path
        if unknown := set(content) - {"agents", "conversations", "scenarios"}:
            raise ValueError(f"A seed has agents, conversations and scenarios, not {', '.join(sorted(unknown))}.")
        for agent in content.get("agents", []):
            self.agents[agent["email"]] = Agent(**agent)
        for conversation in content.get("conversations", []):
            if not str(conversation["user_phone_number"]).isdecimal():
                raise ValueError(f"{conversation['user_phone_number']!r} is not digits only, as the API wants it")
            self.conversations[conversation["user_phone_number"]] = Conversation(**conversation)
        for subject, scenario in content.get("scenarios", {}).items():
            self.set_scenario(subject, scenario)
        self.version += 1

    @_locked
    def set_agent(self, email: str, *, active: bool = True) -> Agent:
        """Add an agent, or give or take an agent's access. It holds for the next request.

        :param email: Their address.
        :param active: False to disable them: they keep their conversations, and get no more.
        :return: The agent.
        :raises InvalidAgentEmailError: If someone is to be added whose address is none.
        :raises ValueError: If there are too many.
        """
        if email not in self.agents:
            email = validate_agent_email(email)
            if len(self.agents) >= _AGENTS_KEPT:
                raise ValueError(f"{_AGENTS_KEPT} agents are the most.")
        agent = self.agents.setdefault(email, Agent(email))
        agent.active = active
        self.version += 1
        return agent

    @_locked
    def remove_agent(self, email: str) -> None:
        """Remove an agent, whose conversations stay with them. It holds for the next request.

        :param email: Their address.
        :raises KeyError: If there is no such agent.
        """
        del self.agents[email]
        self.version += 1

    @_locked
    def set_scenario(self, subject: str, scenario: str | None) -> None:
        """Choose how requests are answered.

        :param subject: A customer's phone number (digits) or an API key.
        :param scenario: A name of :data:`splashify_provider.sandbox.server.SCENARIOS`, with ``:2`` behind it
            for the next two requests only; None for the ordinary answer.
        :raises ValueError: If there is no such scenario (naming those there are), if the number is not digits only, or
            if there are too many.
        """
        if scenario is None:
            self.scenarios.pop(subject, None)
            return
        name, _, times = scenario.partition(":")
        if name not in self.scenario_names or not re.fullmatch("[1-9][0-9]{0,5}", times or "1"):
            known = ", ".join(self.scenario_names)
            raise ValueError(f"There is no scenario {scenario[:_LONGEST_TEXT]!r}. There are: {known}.")
        if re.fullmatch(r"[+\d\s().-]+", subject) and not subject.isdecimal():
            raise ValueError(f"{subject!r} is not digits only, as the API wants it.")
        if len(subject) > _LONGEST_TEXT or (len(self.scenarios) >= _SCENARIOS_KEPT and subject not in self.scenarios):
            raise ValueError(f"{_SCENARIOS_KEPT:,} numbers or keys, of {_LONGEST_TEXT} characters, are the most.")
        self.scenarios[subject] = (name, int(times) if times else None)

    @_locked
    def take_scenario(self, subject: str) -> str | None:
        """Find the scenario for a request, and count it off.

        :param subject: The request's phone number or key.
        :return: The scenario's name, if there is one.
        """
        if subject not in self.scenarios:
            return None
        name, times = self.scenarios[subject]
        if times == 1:
            del self.scenarios[subject]
        elif times is not None:
            self.scenarios[subject] = (name, times - 1)
        return name

    @_locked
    def hit(self, key: str) -> float:
        """Count one request against a key's limit, unless it is reached.

        :param key: A key that is accepted.
        :return: 0.0 if it was counted, else the seconds until one will be.
        """
        now = self.clock()
        window = self.windows.setdefault(key, SlidingWindow((self.rate_limit, self.window)))
        wait = window.wait(now)
        if not wait:
            window.add(now)
        return wait

    @_locked
    def assign(self, phone: str, agent_email: str) -> tuple[int, str]:
        """Assign a customer's conversation, or release it with an empty agent.

        :return: The HTTP status, and the API's words for it.
        """
        if agent_email and agent_email not in self.agents:
            return 400, "Agent not found"
        if agent_email and not self.agents[agent_email].active:
            return 400, "Agent inactive"
        conversation = self.conversations.get(phone)
        if conversation is None or not conversation.open:
            return 400, "Conversation not found"
        holder = agent_email or None
        if conversation.agent_email != holder:
            conversation.moved_at = time.time()
        conversation.agent_email = holder
        return 200, "Chat Assigned Successfully" if agent_email else "Chat Unassigned Successfully"

    @_locked
    def record(
        self,
        status: int,
        message: str,
        phone: str = "",
        agent: str | None = None,
        was: str | None = None,
        *,
        accepted: bool = False,
        anonymous: bool = False,
    ) -> None:
        """Keep what was answered, for the page and for tests.

        :param status: The answer's HTTP status.
        :param message: The answer in words.
        :param phone: The customer's number.
        :param agent: Who was to have the conversation.
        :param was: Who had it.
        :param accepted: Whether the request did what it was to do.
        :param anonymous: Whether it came without a valid key.
        """
        agent, phone = agent and agent[:_LONGEST_TEXT], phone[:_LONGEST_TEXT]
        named = agent or ""
        self.version += 1
        self.answers[status] += 1
        self.accepted += accepted
        if not anonymous and (named in self.requests_by_agent or len(self.requests_by_agent) < _AGENTS_KEPT):
            self.requests_by_agent[named] += 1
        conversation = self.conversations.get(phone)
        (self.anonymous_events if anonymous else self.events).appendleft(
            {
                "time": time.time(),
                "status": status,
                "accepted": accepted,
                "message": message,
                "user_phone_number": phone,
                "name": conversation.name if conversation else "",
                "from": was,
                "to": agent,
            }
        )

    @_locked
    def as_json(self) -> dict[str, Any]:
        """Return the whole state as JSON values."""
        return {
            "version": self.version,
            "now": time.time(),
            "agents": [asdict(agent) for agent in self.agents.values()],
            "conversations": [asdict(conversation) for conversation in self.conversations.values()],
            "scenarios": {
                subject: name if times is None else f"{name}:{times}"
                for subject, (name, times) in self.scenarios.items()
            },
            "requests": self._requests(),
            "events": self._events(),
        }

    @_locked
    def inboxes(self) -> dict[str, Any]:
        """Return what the page shows as JSON values: how many each agent holds, and who came last."""
        held: dict[str | None, list[Conversation]] = {None: [], **{email: [] for email in self.agents}}
        for chat in self.conversations.values():
            if chat.open:
                held.setdefault(chat.agent_email, []).append(chat)
        return {
            "version": self.version,
            "now": time.time(),
            "open": sum(map(len, held.values())),
            "closed": len(self.conversations) - sum(map(len, held.values())),
            "inboxes": [self._inbox(email, held[email]) for email in sorted(held, key=lambda email: email or "")],
            "requests": self._requests(),
            "events": [
                {
                    "customer": _customer(event["name"] or "Request", event["user_phone_number"]),
                    **{name: event[name] for name in ("status", "accepted", "message", "from", "to")},
                }
                for event in self._events()[:_EVENTS_SHOWN]
            ],
        }

    def _inbox(self, email: str | None, chats: list[Conversation]) -> dict[str, Any]:
        agent = None if email is None else self.agents.get(email)
        status = "unassigned" if email is None else "removed"
        if agent:
            status = "active" if agent.active else "disabled"
        return {
            "agent": email,
            "name": agent.name if agent else "",
            "status": status,
            "count": len(chats),
            "latest": [
                {"customer": _customer(chat.name or "Customer", chat.user_phone_number), "moved_at": chat.moved_at}
                for chat in heapq.nlargest(_CHATS_SHOWN, chats, key=lambda chat: chat.moved_at or 0.0)
            ],
        }

    def _requests(self) -> dict[str, Any]:
        now = self.clock()
        return {
            "total": sum(self.answers.values()),
            "accepted": self.accepted,
            "by_status": {str(status): count for status, count in sorted(self.answers.items())},
            "by_agent": dict(self.requests_by_agent),
            "in_window": sum(window.used(now) for window in self.windows.values()),
            "rate_limit": self.rate_limit,
            "window": self.window,
        }

    def _events(self) -> list[dict[str, Any]]:
        """Return what happened, the latest first."""
        events = [*self.events, *self.anonymous_events]
        return sorted(events, key=lambda event: float(event["time"]), reverse=True)


def _customer(name: str, phone: str) -> str:
    return f"{name} {mask_phone_number(phone)}" if phone else name
