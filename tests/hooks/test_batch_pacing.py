"""A batch keeps to its key's budget, and to what Splashify says of it."""

from __future__ import annotations

import time

import pytest

from splashify_provider import rate_limit
from splashify_provider.exceptions import RateLimitError
from splashify_provider.hooks import batch
from splashify_provider.hooks.splashify import SplashifyHook
from tests.conftest import ADA, counts, number, rows, team


class TestPacing:
    def test_others_on_the_key_cost_time_and_nothing_else(self, workspace, monkeypatch):
        monkeypatch.setattr(rate_limit, "WINDOW", 1.0)
        hook, sandbox, _ = workspace(per_minute=50, rate_limit=20, window=1.0)
        assert counts(hook.assign_many(rows(*range(60)))) == {"assigned": 60}
        assert sandbox.workspace.answers[200] == 60
        assert 0 < sandbox.workspace.answers[429] < 60

    def test_the_end_of_a_shared_keys_window_costs_one_refusal_once_it_is_known_to_be_shared(
        self, workspace, monkeypatch
    ):
        monkeypatch.setattr(rate_limit, "WINDOW", 1.0)
        hook, sandbox, _ = workspace(per_minute=1000, rate_limit=20, window=1.0)
        assert counts(hook.assign_many(rows(*range(100)), max_in_flight=8)) == {"assigned": 100}
        assert 0 < sandbox.workspace.answers[429] <= 8 + 4 + 2  # all in flight, then one a window; a late answer or two

    @pytest.mark.parametrize("goes_on", [True, False])
    def test_a_429_holds_others_back_whoever_looks_at_the_answer_and_when(self, workspace, goes_on):
        hook, sandbox, _ = workspace(team(20, n5="rate_limited_long"), latency=0.1)
        outcomes = hook.assign_many(rows(*range(20)))
        next(outcomes)
        deadline = time.monotonic() + 5
        while not sandbox.workspace.answers[429] and time.monotonic() < deadline:
            time.sleep(0.02)
        if not goes_on:
            outcomes.close()
        time.sleep(0.1)
        with pytest.raises(RateLimitError, match="another 600 s"):
            SplashifyHook().assign("+" + number(19), ADA)
        outcomes.close()

    def test_single_calls_go_through_the_same_door(self, workspace, sleeps):
        hook, sandbox, _ = workspace(per_minute=5)
        assert counts(hook.assign_many(rows(0, 1, 2))) == {"assigned": 3}
        for index in range(3, 6):
            SplashifyHook(sleep=sleeps.append).assign("+" + number(index), ADA)
        assert 50 < sum(sleeps) <= 61.1
        SplashifyHook(sleep=sleeps.append).release("+" + number(0))
        assert sandbox.workspace.answers == {200: 7}

    def test_while_it_waits_it_says_so_and_hands_out_what_is_known(self, workspace, monkeypatch):
        monkeypatch.setattr(batch, "_SECONDS_BETWEEN_IDLE_CALLS", 0.05)
        monkeypatch.setattr(rate_limit, "WINDOW", 1.0)
        hook, _, _ = workspace(per_minute=5)
        idle, known = [], []
        known.extend(hook.assign_many(rows(*range(6)), on_idle=lambda: idle.append(len(known))))
        assert len(idle) > 5
        assert set(idle[1:-1]) == {5}
