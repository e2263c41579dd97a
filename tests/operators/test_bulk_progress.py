from __future__ import annotations

from types import SimpleNamespace

import pytest

from splashify_provider.bulk import progress
from splashify_provider.hooks.batch import AssignmentOutcome
from tests.conftest import ADA


@pytest.mark.parametrize(
    ("to_send", "sent", "seconds", "left"),
    [
        (133, 87, 10, "50 s left"),  # the first window is used up: the second opens when a minute has passed
        (133, 87, 50, "26 s left"),
        (50, 25, 10, "10 s left"),
        (900, 90, 10, "9 min left"),
        (50, 0, 10, "unknown time left"),
    ],
)
def test_the_time_left_knows_of_the_rate_limit(monkeypatch, to_send, sent, seconds, left):
    clock, lines = [100.0], []
    log = SimpleNamespace(info=lambda text, *values: lines.append(text % values))
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    shown = progress.Progress(to_send, 90, log)
    for position in range(sent):
        shown.add(AssignmentOutcome(position, "12025550101", ADA, "assigned", ""), is_done=True)
    shown.add(AssignmentOutcome(sent, "x", ADA, "invalid", "bad"), is_done=False)
    clock[0] += seconds
    shown.log_if_due()
    (line,) = lines
    assert line.endswith(f" a second, at most 90 a minute, {left}.")
    assert line.startswith(f"{sent} of {to_send} (")
    assert "invalid" not in line
