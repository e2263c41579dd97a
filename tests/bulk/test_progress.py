from __future__ import annotations

from dataclasses import replace
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
    SplashifyConfigurationError,
)
from splashify_provider.rate_limit import Budget, RateLimiter
from tests.bulk.simulation import assignments
from tests.conftest import ADA, BEN, DAN, number


class Batch:
    """Some rows, and the log of what becomes of them, on a clock of its own."""

    def __init__(self, to_send, per_minute=90, burst=90, counts_invalid=False, **checked):
        self.now, self.lines = 1000.0, []
        self.limiter = RateLimiter(Budget("x", per_minute, burst), lambda: self.now)
        self.rows = assignments(*range(1, to_send + 1))
        self.checked = CheckedRows(to_send, {row.user_phone_number: row for row in self.rows}, **checked)

        def note(text, *values):
            self.lines.append(text % values)

        log = SimpleNamespace(info=note, warning=note)
        self.progress = Progress(self.checked, self.limiter, log, lambda: self.now, counts_invalid=counts_invalid)

    def ends(self, position, error=None, *, agent=ADA, is_done=None, stopped_by=None, outcome=None, refused=()):
        """End a row with an agent, or with nobody where it was refused by all of them."""
        line = [*refused, agent] if agent else list(refused)
        row = Assignment(position, number(position), line[0], tuple(line[1:]))
        self.checked.assignments[row.user_phone_number] = row
        ended = row.ended(
            outcome or (error.outcome if error else "assigned"), str(error or ""), error, stopped_by, dict(refused)
        )
        self.progress.add(ended, is_done=error is None if is_done is None else is_done)

    def is_refused(self, position, **agents):
        """End a row with the error of the last one of some agents, who are all refused."""
        refused = {f"{name}@example.com": error for name, error in agents.items()}
        self.ends(position, [*refused.values()][-1], agent=None, refused=refused)

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


def inactive(name, position=1):
    reason = f"Agent inactive: {name}@example.com is disabled in Splashify; …{position:04d} was not assigned."
    return AgentInactiveError(400, f"{reason}\nEnable them.")


def unknown(name, position=1):
    reason = f"Agent not found: {name}@example.com is unknown; …{position:04d} was not assigned."
    return AgentNotFoundError(400, f"{reason}\nAdd them.")


class TestTheEnd:
    def test_each_refused_agent_is_a_line_with_what_became_of_their_conversations_and_each_remedy_another(self):
        batch = Batch(300)
        for position in range(1, 232):
            batch.is_refused(position, dan=inactive("dan", position))
        for position in range(240, 245):
            batch.ends(position, agent=ADA, refused={DAN: inactive("dan", position)})
        batch.is_refused(250, ben=inactive("ben"), eva=unknown("eva"))
        lines = batch.table()
        assert "    agent_inactive                 231" in lines
        assert lines[-5:] == [
            f"Agent inactive: {DAN} is disabled in Splashify; 5 conversations went to the next in line, 231 failed.",
            f"Agent inactive: {BEN} is disabled in Splashify; 0 conversations went to the next in line, 1 failed.",
            "Agent not found: eva@example.com is unknown; 0 conversations went to the next in line, 1 failed.",
            "Enable them.",
            "Add them.",
        ]

    def test_of_many_refused_agents_twenty_are_named(self):
        batch = Batch(300)
        for position in range(1, 301):
            batch.is_refused(position, **{f"agent{position}": unknown(f"agent{position}", position)})
        lines = batch.table()
        assert len(lines) == 2 + 20 + 2
        assert lines[-2:] == ["Splashify refused 280 agents more.", "Add them."]

    def test_equal_failures_are_one_line_with_their_number_and_the_first_of_them(self):
        batch = Batch(300)
        for position in range(1, 232):
            batch.ends(position, ConversationNotFoundError(400, f"…{position:04d} has none.\nWait."))
        batch.ends(241, ServerError(500, "down (HTTP 500)\nwait"))
        lines = batch.table()
        assert "231 rows conversation_not_found, the first is row 1 (…0001): …0001 has none." in lines
        assert "1 row failed, the first is row 241 (…0241): down (HTTP 500)" in lines
        assert lines.count("Wait.") == 1
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
    def test_it_counts_by_agent_and_cause_and_says_what_to_do(self):
        batch = Batch(9)
        for position in (1, 2):
            batch.is_refused(position, dan=inactive("dan"))
        batch.is_refused(3, ben=inactive("ben"), eva=unknown("eva"))
        batch.ends(4, agent=ADA, refused={DAN: inactive("dan")})
        error = batch.progress.error("does the rest.")
        assert type(error) is AgentInactiveError
        assert error.reason == (
            f"3 of 9 conversations are not done ({DAN} inactive: 2, {BEN} inactive: 1, eva@example.com not found: 1)."
        )
        assert error.remedy == "Enable them. Agent not found: Add them. Then clear this task: it does the rest."

    def test_one_that_another_agent_got_is_no_failure(self):
        batch = Batch(9)
        batch.ends(4, agent=ADA, refused={DAN: inactive("dan")})
        assert batch.progress.error("") is None

    @pytest.mark.parametrize(
        ("ends", "kind", "reason"),
        [
            (
                {2: ConversationNotFoundError, 3: ServerError, 4: ServerError},
                ServerError,
                (
                    f"4 of 9 conversations are not done ({DAN} inactive: 1; conversation not found: 1; failed: 2). "
                    "The last: reason of 4"
                ),
            ),
            (
                {2: ConversationNotFoundError, 3: BadRequestError},
                BadRequestError,
                (
                    f"3 of 9 conversations are not done ({DAN} inactive: 1; conversation not found: 1; rejected: 1). "
                    "The last: reason of 3"
                ),
            ),
            (
                {2: ConversationNotFoundError, 3: ConversationNotFoundError},
                AgentInactiveError,
                f"3 of 9 conversations are not done ({DAN} inactive: 1; conversation not found: 2).",
            ),
        ],
    )
    def test_it_counts_all_else_by_outcome(self, ends, kind, reason):
        batch = Batch(9)
        batch.is_refused(1, dan=inactive("dan"))
        for position, error in ends.items():
            batch.ends(position, error(400, f"reason of {position}\nremedy of {error.__name__}"))
        error = batch.progress.error("does the rest.")
        assert type(error) is kind
        assert error.reason == reason
        again = "A retry, or clearing this task, does" if error.retryable else "Then clear this task: it does"
        assert error.remedy.endswith(f" {again} the rest.")
        for other in ends.values():
            assert error.remedy.count(f"remedy of {other.__name__}") == 1
        assert error.remedy.count("Enable them.") == 1

    def test_invalid_rows_are_counted_where_they_are_to_fail_the_batch(self):
        invalid = [AssignmentOutcome(9, "12", ADA, "invalid", "too short. Nothing was sent.\nwrite it out")]
        batch = Batch(3, invalid=invalid, counts_invalid=True)
        batch.ends(1)
        batch.ends(2)
        batch.is_refused(3, dan=inactive("dan"))
        error = batch.progress.error("does the rest.")
        assert type(error) is SplashifyConfigurationError
        assert error.reason == f"2 of 4 conversations are not done ({DAN} inactive: 1; invalid: 1)."
        assert "Correct the invalid rows" in error.remedy
        assert batch.progress.summary()["undone"] == 2
        skipped = Batch(3, invalid=invalid)
        assert skipped.progress.error("") is None
        assert skipped.progress.summary()["undone"] == 3

    def test_hundreds_of_refused_agents_are_no_flood(self):
        batch = Batch(300)
        for position in range(1, 301):
            batch.is_refused(position, **{f"agent{position}": unknown(f"agent{position}")})
        assert batch.progress.error("").reason.endswith("@example.com not found: 1, and 280 more).")

    def test_what_stopped_the_batch_is_what_it_ends_with(self):
        batch = Batch(3)
        revoked = AuthenticationError(401, "the key is refused\nrenew it")
        batch.ends(1, ServerError(500, "down\nwait"))
        batch.ends(2, revoked, stopped_by=revoked)
        batch.ends(3, revoked, stopped_by=revoked, outcome="not_attempted")
        error = batch.progress.error("does the rest.")
        assert type(error) is AuthenticationError
        assert error.reason == (
            "3 of 3 conversations are not done (failed: 1; rejected: 1; not attempted: 1), and the batch was stopped. "
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
            "done_before": {},
            "duplicates": 0,
            "undone": 0,
            "not_done": [],
            "elsewhere": {},
            "refused_agents": {},
            "failures": [],
            "seconds": 0.0,
        }

    def test_it_says_which_rows_are_not_done_in_ranges_from_one(self):
        first, second, *_, last = assignments(*range(1, 10))
        again = Assignment(8, first.user_phone_number, ADA), Assignment(9, second.user_phone_number, ADA)
        batch = Batch(7, duplicates=[(again[0], first), (again[1], second)], invalid=[last.ended("invalid", "bad")])
        batch.checked.total = 10
        batch.progress = Progress(batch.checked, batch.limiter, None)
        batch.ends(1)
        batch.ends(2, ServerError(500, "down"))
        batch.is_refused(3, dan=inactive("dan"))
        batch.progress.add_done_before(batch.rows[3].ended("assigned", ""))
        batch.progress.add_done_before(batch.rows[4].ended("conversation_not_found", ""))
        batch.ends(6, ConversationNotFoundError(400, "closed"), is_done=True)
        batch.ends(7)
        summary = batch.progress.summary()
        assert summary["not_done"] == [[2, 3], [5, 6], [9, 10]]  # 9 says what 2 says, and 10 is the invalid one
        assert summary["refused_agents"] == {DAN: {"cause": "agent_inactive", "elsewhere": 0, "failed": 1}}
        assert (summary["done_before"], summary["duplicates"]) == ({"assigned": 1, "conversation_not_found": 1}, 2)
        assert summary["undone"] == 2
        assert summary["counts"] == {
            "invalid": 1,
            "assigned": 2,
            "failed": 1,
            "agent_inactive": 1,
            "conversation_not_found": 1,
        }

    def test_it_says_who_has_what_was_for_others(self):
        first = assignments(1)[0]
        again = Assignment(9, first.user_phone_number, DAN)
        batch = Batch(8, duplicates=[(again, first)])
        batch.checked.total = 9
        batch.progress = Progress(batch.checked, batch.limiter, None, lambda: 0.0)
        for position in (5, 1, 3):
            batch.ends(position, agent=BEN, refused={DAN: inactive("dan")})
        batch.ends(2, agent=ADA, refused={DAN: inactive("dan"), BEN: unknown("ben")})
        assert batch.progress.summary()["elsewhere"] == {BEN: [[1, 1], [3, 3], [5, 5], [9, 9]], ADA: [[2, 2]]}
        batch.ends(4, agent=BEN, refused={DAN: inactive("dan")})
        batch.ends(6, agent=ADA)
        row = Assignment(7, number(7), DAN, (BEN,))
        batch.checked.assignments[row.user_phone_number] = row
        batch.progress.add_done_before(replace(row.ended("assigned", ""), agent_email=BEN))
        summary = batch.progress.summary()
        assert summary["elsewhere"] == {BEN: [[1, 1], [3, 5], [7, 7], [9, 9]], ADA: [[2, 2]]}
        assert summary["refused_agents"] == {
            DAN: {"cause": "agent_inactive", "elsewhere": 5, "failed": 0},
            BEN: {"cause": "agent_not_found", "elsewhere": 1, "failed": 0},
        }
        assert summary["not_done"] == [[8, 8]]
        assert (summary["undone"], summary["seconds"]) == (1, 0.0)

    def test_what_is_released_is_done_and_nobodys(self):
        batch = Batch(2)
        release = Assignment(1, number(1), None)
        batch.checked.assignments[release.user_phone_number] = release
        batch.progress.add(release.ended("released", "done"), is_done=True)
        batch.now += 2.34
        summary = batch.progress.summary()
        assert (summary["counts"], summary["not_done"], summary["elsewhere"]) == ({"released": 1}, [[2, 2]], {})
        assert (summary["undone"], summary["seconds"]) == (1, 2.3)

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
