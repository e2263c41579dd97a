from __future__ import annotations

from types import SimpleNamespace

import pytest

from splashify_provider.bulk.assignment import Assignment, AssignmentOutcome
from splashify_provider.bulk.preflight import CheckedRows
from splashify_provider.bulk.progress import Progress
from splashify_provider.exceptions import (
    AgentInactiveError,
    AgentNotFoundError,
    AuthenticationError,
    BadRequestError,
    ConversationNotFoundError,
    ServerError,
)
from splashify_provider.rate_limit import Budget, RateLimiter
from tests.bulk.simulation import assignments
from tests.conftest import ADA, BEN, DAN, number


class Batch:
    """Some rows, and the log of what becomes of them, on a clock of its own."""

    def __init__(self, to_send, per_minute=90, burst=90, **checked):
        self.now, self.lines = 1000.0, []
        self.limiter = RateLimiter(Budget("x", per_minute, burst), lambda: self.now)
        self.rows = assignments(*range(1, to_send + 1))
        self.checked = CheckedRows(to_send, {row.user_phone_number: row for row in self.rows}, **checked)

        def note(text, *values):
            self.lines.append(text % values)

        log = SimpleNamespace(info=note, warning=note)
        self.progress = Progress(self.checked, self.limiter, log, lambda: self.now)

    def ends(self, position, error=None, *, agent=ADA, is_done=None, stopped_by=None, outcome=None):
        row = Assignment(position, number(position), agent)
        ended = row.ended(outcome or (error.outcome if error else "assigned"), str(error or ""), error, stopped_by)
        self.progress.add(ended, is_done=error is None if is_done is None else is_done)

    def line_after(self, seconds, sent):
        for position in range(1, sent + 1):
            if self.limiter.try_acquire() == 0:
                self.ends(position)
        self.now += seconds
        self.progress.log_if_due()
        return self.lines[-1]

    def table(self):
        self.progress.log_table()
        return self.lines


WAITING = "Waiting for the limit, 90 a minute"


class TestTheLineInBetween:
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
    def test_the_time_left_knows_of_the_rate_limit(self, to_send, steps):
        invalid = [AssignmentOutcome(999, "x", ADA, "invalid", "bad")]
        batch = Batch(to_send, invalid=invalid)
        for sent, expected in steps:
            assert expected in batch.line_after(10, sent)

    def test_it_does_not_grow_while_others_use_the_key_up(self):
        batch = Batch(80)
        batch.line_after(10, 6)
        batch.limiter.pause(50)
        left = [batch.line_after(10, 1).rpartition(", ")[2] for _ in range(4)]
        assert left == ["40 s left.", "30 s left.", "20 s left.", "10 s left."]

    def test_an_even_pace_takes_its_time(self):
        batch = Batch(61, per_minute=60, burst=1)
        batch.now += 9.5
        assert "60 s left" in batch.line_after(0.5, 2)

    def test_it_comes_every_ten_seconds(self):
        batch = Batch(10)
        for _ in range(35):
            batch.now += 1
            batch.progress.log_if_due()
        assert len(batch.lines) == 3


INACTIVE = "Agent inactive: {} is disabled; …{} was not assigned.\nEnable them."


class TestTheEnd:
    def test_equal_failures_are_one_line_with_their_number_and_the_first_of_them(self):
        batch = Batch(300)
        for position in range(1, 232):
            batch.ends(position, AgentInactiveError(400, INACTIVE.format(DAN, f"{position:04d}")), agent=DAN)
        batch.ends(240, AgentInactiveError(400, INACTIVE.format(BEN, "0240")), agent=BEN)
        batch.ends(241, ServerError(500, "down (HTTP 500)\nwait"))
        lines = batch.table()
        assert "    agent_inactive                 232" in lines
        assert (
            f"231 rows agent_inactive, the first is row 1 (…0001): {INACTIVE.format(DAN, '0001').split(chr(10))[0]}"
            in (lines)
        )
        assert sum("1 row agent_inactive, the first is row 240 (…0240): " in line for line in lines) == 1
        assert "1 row failed, the first is row 241 (…0241): down (HTTP 500)" in lines
        assert lines.count("Enable them.") == 2
        assert "wait" in lines

    def test_many_kinds_are_no_flood(self):
        batch = Batch(500)
        for position in range(1, 501):
            batch.ends(position, BadRequestError(400, f"reason {position * 7919}"))
        assert len(batch.table()) < 30

    def test_what_was_not_attempted_is_counted_not_listed(self):
        batch = Batch(50)
        revoked = AuthenticationError(401, "revoked\nrenew it")
        batch.ends(1, revoked, stopped_by=revoked)
        for position in range(2, 51):
            batch.ends(position, revoked, stopped_by=revoked, outcome="not_attempted")
        lines = batch.table()
        assert "    not_attempted                   49" in lines
        assert [line for line in lines if "revoked" in line] == ["1 row rejected, the first is row 1 (…0001): revoked"]


class TestTheError:
    @pytest.mark.parametrize(
        ("ends", "kind", "reason"),
        [
            (
                {1: (DAN, AgentInactiveError), 2: (DAN, AgentInactiveError), 3: (BEN, AgentInactiveError)},
                AgentInactiveError,
                f"3 of 9 assignments are not done (agent inactive: 2 x {DAN}, 1 x {BEN}).",
            ),
            (
                {1: (DAN, AgentInactiveError)},
                AgentInactiveError,
                f"1 of 9 assignments is not done (agent inactive: 1 x {DAN}).",
            ),
            (
                {
                    1: (DAN, AgentInactiveError),
                    2: (BEN, AgentNotFoundError),
                    3: (ADA, ServerError),
                    4: (ADA, ServerError),
                },
                ServerError,
                (
                    f"4 of 9 assignments are not done (agent inactive: 1 x {DAN}; agent not found: 1 x {BEN}; "
                    "failed: 2). The last: reason of 4"
                ),
            ),
            (
                {1: (ADA, ConversationNotFoundError), 2: (ADA, BadRequestError)},
                BadRequestError,
                "2 of 9 assignments are not done (conversation not found: 1; rejected: 1). The last: reason of 2",
            ),
            (
                {1: (ADA, ConversationNotFoundError), 2: (ADA, ConversationNotFoundError)},
                ConversationNotFoundError,
                "2 of 9 assignments are not done (conversation not found: 2).",
            ),
        ],
    )
    def test_it_counts_what_is_not_done_and_names_every_refused_agent(self, ends, kind, reason):
        batch = Batch(9)
        for position, (agent, error) in ends.items():
            batch.ends(position, error(400, f"reason of {position}\nremedy of {error.__name__}"), agent=agent)
        error = batch.progress.error("does the rest.")
        assert type(error) is kind
        assert error.reason == reason
        assert error.remedy.startswith(f"remedy of {kind.__name__}")
        again = "A retry, or clearing this task, does" if error.retryable else "Then clear this task: it does"
        assert error.remedy.endswith(f" {again} the rest.")
        for _, other in ends.values():
            assert error.remedy.count(f"remedy of {other.__name__}") == 1

    def test_hundreds_of_refused_agents_are_no_flood(self):
        batch = Batch(300)
        for position in range(1, 301):
            batch.ends(position, AgentNotFoundError(400, "x"), agent=f"agent{position}@example.com")
        assert batch.progress.error("").reason.endswith("and 280 agents more).")

    def test_what_stopped_the_batch_is_what_it_ends_with(self):
        batch = Batch(3)
        revoked = AuthenticationError(401, "the key is refused\nrenew it")
        batch.ends(1, ServerError(500, "down\nwait"))
        batch.ends(2, revoked, stopped_by=revoked)
        batch.ends(3, revoked, stopped_by=revoked, outcome="not_attempted")
        error = batch.progress.error("does the rest.")
        assert type(error) is AuthenticationError
        assert error.reason == (
            "3 of 3 assignments are not done (failed: 1; rejected: 1; not attempted: 1), and the batch was stopped. "
            "the key is refused"
        )
        assert error.remedy == "renew it Failed: wait Then clear this task: it does the rest."

    def test_there_is_none_if_everything_is_done(self):
        batch = Batch(2)
        batch.ends(1)
        batch.ends(2, ConversationNotFoundError(400, "closed"), is_done=True)
        assert batch.progress.error("") is None


class TestTheSummary:
    def test_of_nothing(self):
        assert Batch(0).progress.summary() == {
            "total": 0,
            "counts": {},
            "done_before": 0,
            "duplicates": 0,
            "not_done": [],
            "refused_agents": {},
            "failures": [],
        }

    def test_it_says_which_rows_are_not_done_in_ranges_from_one(self):
        first, second, *_, last = assignments(*range(1, 10))
        again = Assignment(8, first.user_phone_number, ADA), Assignment(9, second.user_phone_number, ADA)
        batch = Batch(7, duplicates=[(again[0], first), (again[1], second)], invalid=[last.ended("invalid", "bad")])
        batch.checked.total = 10
        batch.progress = Progress(batch.checked, batch.limiter, None)
        batch.ends(1)
        batch.ends(2, ServerError(500, "down"))
        batch.ends(3, AgentInactiveError(400, "inactive"), agent=DAN)
        batch.progress.add_done_before(batch.rows[3], "assigned")
        batch.progress.add_done_before(batch.rows[4], "conversation_not_found")
        batch.ends(6, ConversationNotFoundError(400, "closed"), is_done=True)
        batch.ends(7)
        summary = batch.progress.summary()
        assert summary["not_done"] == [[2, 3], [5, 6], [9, 10]]  # 9 says what 2 says, and 10 is the invalid one
        assert summary["refused_agents"] == {DAN: {"agent_inactive": 1}}
        assert (summary["done_before"], summary["duplicates"]) == (2, 2)
        assert summary["counts"] == {
            "invalid": 1,
            "assigned": 2,
            "failed": 1,
            "agent_inactive": 1,
            "conversation_not_found": 1,
        }

    def test_it_lists_a_hundred_failures_before_invalid_rows_with_masked_numbers(self):
        invalid = [AssignmentOutcome(position, "12025550199", ADA, "invalid", "bad") for position in range(2, 200)]
        batch = Batch(1, invalid=invalid)
        batch.ends(1, ServerError(500, "down\nwait"))
        failures = batch.progress.summary()["failures"]
        assert failures[0] == {
            "position": 1,
            "user_phone_number": "…0001",
            "agent_email": ADA,
            "outcome": "failed",
            "message": "down\nwait",
        }
        assert len(failures) == 100
        assert "12025550199" not in str(failures)
