from __future__ import annotations

import pytest

from splashify_provider.routing import on_duty
from tests.dags.conftest import digits

DAG_ID = "splashify_owner_routing"


def chain(row, duty, speaks):
    """Who comes into question first, as the DAG's docstring has it."""
    owner, backup, language = row
    for named in (owner, backup):
        if named in duty:
            return {named}
    able = {agent for agent in duty if language and language in [tag[:2] for tag in speaks[agent].split(",")]}
    return able or duty


@pytest.mark.slow
def test_customers_reach_owner_backup_or_somebody_who_speaks_with_them(airflow_on_postgres):
    run, team = airflow_on_postgres, airflow_on_postgres.team
    for agent in run.sandbox.workspace.agents.values():
        agent.active = True
    code, log = run(DAG_ID)
    assert code == 0, log
    held = run.in_splashify()
    assert run.in_table() == {phone: held[phone] for phone in run.in_table()}

    roster = [{"agent_email": agent, "start": start, "end": end} for agent, start, end in team.roster]
    duty, speaks = set(on_duty(roster, run.now)), {agent: languages for agent, languages, _ in team.agents}
    closed = {chat.user_phone_number for chat in run.sandbox.workspace.conversations.values() if not chat.open}
    known = {digits(phone): row for phone, *row in team.customers}
    chosen = [
        held[phone] in chain(known.get(phone, (None, None, None)), duty, speaks)
        for phone in held
        if phone not in closed
    ]
    assert len(chosen) == 22
    assert sum(chosen) >= 19, log  # all but whose first choice has far more than a fair share already
    assert "on duty and owns the customer" in log
    assert "on duty and stands in for the owner" in log
    assert "on duty and speaks" in log

    assigned = run.sandbox.workspace.answers[200]
    code, log = run(DAG_ID)
    assert code == 0, log
    assert run.in_splashify() == held
    assert run.sandbox.workspace.answers[200] == assigned
