from __future__ import annotations

from types import SimpleNamespace

import pytest

from splashify_provider.bulk import progress
from splashify_provider.hooks.batch import AssignmentOutcome
from splashify_provider.rate_limit import Budget, RateLimiter
from tests.conftest import ADA


class Batch:
    """Sends so many as its pacer lets through, and shows the line that is logged then."""

    def __init__(self, monkeypatch, to_send, per_minute=90, burst=90):
        self.now, self.lines = 1000.0, []
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)
        self.pacer = RateLimiter(Budget("x", per_minute, burst), lambda: self.now)
        log = SimpleNamespace(info=lambda text, *values: self.lines.append(text % values))
        self.progress = progress.Progress(to_send, self.pacer, log)
        self.progress.add(AssignmentOutcome(1, "x", ADA, "invalid", "bad"), is_done=False)

    def line_after(self, seconds, sent):
        for _ in range(sent):
            if self.pacer.try_acquire() == 0:
                self.progress.add(AssignmentOutcome(2, "12025550101", ADA, "assigned", ""), is_done=True)
        self.now += seconds
        self.progress.log_if_due()
        return self.lines[-1]


WAITING = "Waiting for the limit, 90 a minute"


@pytest.mark.parametrize(
    ("to_send", "steps"),
    [
        (50, [(25, "25 of 50 (50 %): 25 assigned. 2.5 a second, 10 s left.")]),
        (50, [(0, "0 of 50 (0 %): no answer yet. 0.0 a second, unknown time left.")]),
        # Fast now, but the second window opens when a minute has passed.
        (133, [(45, "45 of 133 (34 %): 45 assigned. 4.5 a second, 50 s left.")]),
        (
            133,
            [(91, f"90 of 133 (68 %): 90 assigned. {WAITING}, 51 s left."), (1, "41 s left"), (1, "31 s left")],
        ),
        (900, [(91, f"{WAITING}, 9 min left.")]),
    ],
)
def test_the_time_left_knows_of_the_rate_limit(monkeypatch, to_send, steps):
    batch = Batch(monkeypatch, to_send)
    for sent, expected in steps:
        assert expected in batch.line_after(10, sent)


def test_it_does_not_grow_while_others_use_the_key_up(monkeypatch):
    batch = Batch(monkeypatch, 80)
    batch.line_after(10, 6)
    batch.pacer.pause(50)
    left = [batch.line_after(10, 1).rpartition(", ")[2] for _ in range(4)]
    assert left == ["40 s left.", "30 s left.", "20 s left.", "10 s left."]


def test_an_even_pace_takes_its_time(monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    batch = Batch(monkeypatch, 61, per_minute=60, burst=1)
    assert "60 s left" in batch.line_after(0.5, 2)
