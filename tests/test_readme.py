"""The README is kept true: its code runs, and what it lists is all there is."""

from __future__ import annotations

import dataclasses
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import get_args

import pytest

from splashify_provider import exceptions
from splashify_provider.get_provider_info import get_provider_info
from splashify_provider.routing import RoutingPolicy, on_duty
from splashify_provider.routing.policy import Step
from tests.conftest import ADA, BEN
from tests.task_groups.simulation import Run

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
ROUTING = (ROOT / "docs" / "routing.md").read_text()
HANDOVER = (ROOT / "docs" / "handover.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.filterwarnings("ignore")  # of Airflow, on naive dates
def test_its_code_assigns(sandbox, connect, tmp_path, capsys):
    connect(sandbox.base_url)
    spaces = [{}, {}, {}]
    _, *dags, loop = SNIPPETS
    for code, space in zip(dags, spaces, strict=True):
        exec(code.replace("):\n", ") as dag:\n", 1), space)
    one, many, thousands = (space["dag"] for space in spaces)

    task = one.get_task("assign")
    task.render_template_fields({"params": dict(task.params)})
    assert task.execute({})["outcome"] == "assigned"
    assert sandbox.workspace.conversations["12025550100"].agent_email == ADA

    (row,) = many.get_task("owners").python_callable()
    assert many.get_task("assign").partial_kwargs["on_conversation_not_found"] == "skip"
    assert spaces[1]["SplashifyAssignOperator"](task_id="assign", **row).execute({})["agent_email"] == BEN

    task = thousands.get_task("assign")
    task.render_template_fields({"run_id": "manual__1"})
    assert (task.assignments, task.report_path) == ("/data/plan.csv", "/data/reports/manual__1.jsonl")
    (tmp_path / "plan.csv").write_text(f"user_phone_number,agent_email\n+12025550104,{BEN}\n")
    task.assignments, task.report_path, task.max_run_age = str(tmp_path / "plan.csv"), str(tmp_path / "r.jsonl"), None
    assert task.execute({})["counts"] == {"assigned": 1}

    sandbox.workspace.agents[ADA].active = False
    exec(loop)
    assert "Row 1: Agent inactive" in capsys.readouterr().out


def test_its_hand_over_moves_conversations_and_writes_them_back(sandbox, connect, monkeypatch, tmp_path):
    connect(sandbox.base_url)
    with closing(sqlite3.connect(tmp_path / "support.db")) as database, database:
        database.executescript((ROOT / "dags" / "demo" / "schema.sql").read_text())
        database.execute("INSERT INTO roster VALUES (?, '2026-11-25T12:00:00Z', '2026-11-25T14:00:00Z')", (BEN,))
        database.execute("INSERT INTO conversations VALUES ('+1 202-555-0100', ?, 'open')", (ADA,))
    connection = {"conn_type": "sqlite", "host": str(tmp_path / "support.db")}
    monkeypatch.setenv("AIRFLOW_CONN_SUPPORT_DB", json.dumps(connection))
    space = {}
    exec(SNIPPETS[0].replace("    SplashifyHandoverTaskGroup(", "    group = SplashifyHandoverTaskGroup("), space)
    group = space["group"]
    assert group.dag.params["dry_run"] is True
    group.plan.shifts, group.plan.conversations = (space[name].execute({}) for name in ("roster", "conversations"))
    group.plan.is_dry_run = False
    group.plan.max_run_age = group.write_back.max_run_age = group.assign.partial_kwargs["max_run_age"] = None
    assert Run(group)()["moved"] == 1
    with closing(sqlite3.connect(tmp_path / "support.db")) as database:
        assert database.execute("SELECT agent_email FROM conversations").fetchall() == [(BEN,)]


def test_the_step_is_at_most_ten_lines():
    body = SNIPPETS[1].split("with DAG")[1].strip().splitlines()
    assert len(body) <= 10


def test_its_table_of_failures_has_every_error():
    public = {
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and value.__module__ == exceptions.__name__
    }
    listed = dict(re.findall(r"^\| `(\w+Error)` \| .*? \| (yes|no)", README, re.MULTILINE))
    assert set(listed) == public - {"SplashifyError", "SplashifyAPIError"}
    for name, retried in listed.items():
        assert getattr(exceptions, name).retryable is (retried == "yes"), name


def test_its_options_are_those_of_the_connection():
    table = README.split("| option (Extra)")[1].split("\n\n")[0]
    listed = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert listed == set(get_provider_info()["connection-types"][0]["conn-fields"])


def test_its_connections_are_json(sandbox):
    documents = [json.loads(document) for document in re.findall(r"export AIRFLOW_CONN_\w+='(.*?)'", README)]
    assert [document["conn_type"] for document in documents] == ["splashify", "sqlite", "postgres", "splashify"]


def test_what_it_links_to_exists():
    for folder, page in ((ROOT, README), (ROOT / "docs", ROUTING), (ROOT / "docs", HANDOVER)):
        for target in re.findall(r"\]\((?!http|#)([^)]+)\)", page):
            assert (folder / target).exists(), target
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    for anchor in re.findall(r"\]\(#([^)]+)\)", README):
        assert anchor in headings


@pytest.mark.parametrize("target", re.findall(r"`make ([a-z-]+)`", README))
def test_its_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_routing_page_shows_what_its_code_prints(capsys):
    code, of_a_dag = re.findall(r"```python\n(.*?)```", ROUTING, re.DOTALL)
    dag = (ROOT / "dags" / "splashify_owner_routing.py").read_text()
    assert of_a_dag in dag
    space = {}
    exec(code, space)
    (shown,) = re.findall(r"```text\n(.*?)```", ROUTING, re.DOTALL)
    assert capsys.readouterr().out == shown
    assert on_duty(space["roster"], space["at"]) == ["ada@example.com", "cleo@example.com"]
    first, _ = space["plan"].to_assignments()
    assert f"# [{first}, ...]" in code


def test_the_routing_page_lists_every_option_with_its_default():
    listed = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", ROUTING.split("| option | default |")[1], re.MULTILINE))
    defaults = {field.name: field.default for field in dataclasses.fields(RoutingPolicy)}
    words = {None: "none", get_args(Step): "all, in this order", 0.25: "0.25"}
    assert listed == {name: words.get(value, f'`"{value}"`') for name, value in defaults.items()}
    steps = re.findall(r"^\| `(\w+)` \|", ROUTING.split("| step | who |")[1].split("\n\n")[0], re.MULTILINE)
    assert tuple(steps) == get_args(Step)


def test_its_figures_are_those_of_the_benchmark():
    measured = (ROOT / "benchmarks" / "ROUTING.md").read_text()
    rows = {cells[1].strip(" *"): cells for line in measured.splitlines() if len(cells := line.split("|")) > 8}
    for name in ("planner", "round robin", "hash modulo", "the least there is"):
        figures = [cell.strip() for cell in rows[name][3:6]]
        (line,) = [line for line in ROUTING.splitlines() if re.match(rf"\| \*?{name}", line) and line.count("|") == 5]
        assert [cell.strip() for cell in line.split("|")[2:5]] == figures
    for figure in (rows["planner"][3], rows["round robin"][3]):
        assert figure.strip() in README
