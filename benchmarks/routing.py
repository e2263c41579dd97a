"""Compare plans with what people write instead: round robin, and the hash of the number modulo the team's size.

One team, one inbox, all three in one run. Writes ROUTING.md beside this file.
"""

from __future__ import annotations

import hashlib
import platform
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from splashify_provider.routing import Conversation, Shift, plan_assignments

AT = datetime(2026, 11, 22, 13, tzinfo=timezone.utc)
AGENTS, CONVERSATIONS = 200, 100_000
LANGUAGES = ("en", "es", "fr", "de", "pt", "it")

Holders = dict[str, str | None]
Strategy = Callable[[Holders, Sequence[str]], Holders]


def agent(number: int) -> str:
    """Name an agent."""
    return f"agent{number:03d}@example.com"


def planner(holders: Holders, team: Sequence[str]) -> Holders:
    """Plan with the defaults."""
    shifts = [Shift(who, AT, AT + timedelta(hours=8)) for who in team]
    conversations = [Conversation(phone, holder) for phone, holder in holders.items()]
    plan = plan_assignments(conversations, shifts, at=AT)
    return {each.user_phone_number: each.agent_email for each in (*plan.kept, *plan.moves)}


def round_robin(holders: Holders, team: Sequence[str]) -> Holders:
    """Deal the open conversations out, one each in turn."""
    return {phone: team[number % len(team)] for number, phone in enumerate(holders)}


def modulo(holders: Holders, team: Sequence[str]) -> Holders:
    """Pick by the hash of the number, modulo the size of the team."""
    return {phone: team[int(hashlib.md5(phone.encode()).hexdigest(), 16) % len(team)] for phone in holders}


STRATEGIES: dict[str, Strategy] = {"planner": planner, "round robin": round_robin, "hash modulo": modulo}


def moved(before: Holders, after: Holders) -> int:
    """Count the conversations that change hands."""
    return sum(before[phone] != holder for phone, holder in after.items())


def compare() -> list[str]:
    """Run each roster change with each strategy, and write a table's lines."""
    inbox: Holders = {f"+9198{number:08d}": None for number in range(CONVERSATIONS)}
    team = [agent(number) for number in range(AGENTS)]
    newcomers = [f"new{number}@example.com" for number in range(10)]
    changes = {
        "one leaves": [who for who in team if who != agent(77)],
        "one joins": sorted([*team, "agent077b@example.com"]),
        "ten leave, ten come": sorted([*team[5:100], *team[105:], *newcomers]),
        "nothing": team,
    }
    rows = []
    for name, strategy in STRATEGIES.items():
        started = time.perf_counter()
        start = strategy(inbox, team)
        seconds = time.perf_counter() - started
        loads = Counter(start.values())
        cells = [name, f"{min(loads.values())} to {max(loads.values())}"]
        cells += [f"{moved(start, strategy(start, changed)):,}" for changed in changes.values()]
        # A conversation is resolved and another opened: everybody behind it in the list moves up.
        changed_inbox = {**dict(list(start.items())[1:]), "+919999999999": None}
        cells.append(f"{moved({**start, '+919999999999': None}, strategy(changed_inbox, team)):,}")
        rows.append(f"| {' | '.join([*cells, f'{seconds:.1f}'])} |")
    start = planner(inbox, team)
    replaced = sum(who not in changes["ten leave, ten come"] for who in start.values())
    left = sum(who not in changes["one leaves"] for who in start.values())
    rows.append(f"| *the least there is* | | {left:,} | 0 | {replaced:,} | 0 | 1 | |")
    head = ["", "each holds", *changes, "one chat resolved, one new", "seconds"]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *rows]


def grow(count: int, *, is_mixed: bool) -> str:
    """Plan for so many conversations in this process, and tell time and memory.

    :param count: How many.
    :param is_mixed: Give agents different capacities and languages, and conversations owners and languages.
    """
    team = [agent(number) for number in range(AGENTS)]
    shifts = [
        Shift(who, AT, AT + timedelta(hours=8), 1 + number % 3, LANGUAGES[number % 5 : number % 5 + 2])
        if is_mixed
        else Shift(who, AT, AT + timedelta(hours=8))
        for number, who in enumerate(team)
    ]
    conversations = [
        Conversation(
            f"+9198{number:08d}",
            owner_email=team[number % AGENTS] if is_mixed and number % 3 == 0 else None,
            language=LANGUAGES[number % 5] if is_mixed and number % 3 == 1 else None,
        )
        for number in range(count)
    ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    plan_assignments(conversations, shifts, at=AT)
    seconds = time.perf_counter() - started
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    what = ", a third with an owner, a third with a language, agents of three capacities" if is_mixed else ""
    return f"| {count:,}{what} | {seconds:.1f} | {megabytes:.0f} |"


def main() -> None:
    """Write the tables."""
    if len(sys.argv) > 1:
        print(grow(int(sys.argv[1]), is_mixed=len(sys.argv) > 2))
        return
    sizes = []
    for options in (["25000"], ["50000"], ["100000"], ["100000", "mixed"]):
        command = [sys.executable, __file__, *options]
        sizes.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    text = [
        "# Plans, beside round robin and hash modulo",
        "",
        f"`make bench-routing`, Python {platform.python_version()}. {CONVERSATIONS:,} conversations, {AGENTS} agents;",
        "then the roster changes, and so many change hands. Moves don't depend on the machine, seconds (of the first",
        "plan) do. At 100 requests a minute, 100,000 moves take 16 hours.",
        "",
        *compare(),
        "",
        "The planner by size (a process each; the memory is what planning adds to it):",
        "",
        "| conversations | seconds | MB |",
        "|---|---|---|",
        *sizes,
        "",
    ]
    Path(__file__).with_name("ROUTING.md").write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
