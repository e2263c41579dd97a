from __future__ import annotations

from datetime import datetime, timezone


def test_the_demo_team_is_the_same_in_the_database_and_the_sandbox(seed, tmp_path):
    for hour in range(24):
        at = datetime(2026, 3, 29, hour, tzinfo=timezone.utc)  # the clocks change
        team = seed.make_team(at)
        in_table = {
            "".join(filter(str.isdigit, phone)): holder
            for phone, holder, status in team.conversations
            if status == "open"
        }
        in_sandbox = {chat["user_phone_number"]: chat["agent_email"] for chat in team.sandbox["conversations"]}
        assert in_table.items() <= in_sandbox.items()
        assert len(in_table) == 250
        on_duty = {
            agent
            for agent, start, end in team.roster
            if datetime.fromisoformat(start) <= at < datetime.fromisoformat(end)
        }
        assert on_duty == {seed.email(name) for name in seed.TEAMS[seed.shift_at(at)]}
        assert team.disabled in on_duty
