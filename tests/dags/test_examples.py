"""What all example DAGs have in common."""

from __future__ import annotations

import ast

import pytest

from tests.dags.conftest import DAGS

NAMES = sorted(path.stem for path in DAGS.glob("*.py"))


def lines_of_code(path):
    """Count the lines that are neither blank, nor comment, nor a docstring."""
    source = path.read_text()
    code = {node.lineno for node in ast.walk(ast.parse(source)) if hasattr(node, "lineno")}
    docstring = ast.parse(source).body[0]
    return len({line for line in code if not docstring.lineno <= line <= docstring.end_lineno})


def test_there_are_three():
    assert NAMES == ["splashify_oncall_handover", "splashify_owner_routing", "splashify_shift_handover"]


@pytest.mark.parametrize("name", NAMES)
def test_it_says_in_the_ui_what_it_needs_and_how_to_look_first(load_dag, name):
    _, dag = load_dag(name)
    for word in ("splashify_default", "support_db", "dry_run", "user_phone_number, agent_email, status"):
        assert word in dag.doc_md
    assert dag.catchup is False
    assert dag.max_active_runs == 1


@pytest.mark.parametrize("name", NAMES)
def test_it_shows_a_plan_and_sends_nothing_until_that_is_changed_in_the_file(load_dag, name):
    _, dag = load_dag(name)
    assert dag.params["dry_run"] is True
    assert dag.get_task("handover.plan").is_dry_run == "{{ params.dry_run }}"


@pytest.mark.parametrize(("name", "most"), [(name, 80 if "oncall" in name else 45) for name in NAMES])
def test_it_is_short_enough_to_be_copied(name, most):
    assert lines_of_code(DAGS / f"{name}.py") <= most
