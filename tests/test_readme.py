"""The README is kept true: its code runs, and what it lists is all there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from splashify_provider import exceptions
from splashify_provider.get_provider_info import get_provider_info
from tests.conftest import ADA, BEN

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.filterwarnings("ignore")  # of Airflow, on naive dates
def test_its_dags_assign(sandbox, connect, tmp_path):
    connect(sandbox.base_url)
    spaces = [{}, {}, {}]
    for code, space in zip(SNIPPETS, spaces, strict=True):
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
    task.render_template_fields({"ds": "2026-11-22"})
    assert (task.assignments, task.report_path) == ("/data/2026-11-22/plan.csv", "/data/2026-11-22/report.jsonl")
    (tmp_path / "plan.csv").write_text(f"user_phone_number,agent_email\n+12025550104,{BEN}\n")
    task.assignments, task.report_path, task.max_run_age = str(tmp_path / "plan.csv"), str(tmp_path / "r.jsonl"), None
    assert task.execute({})["counts"] == {"assigned": 1}


def test_the_step_is_at_most_ten_lines():
    body = SNIPPETS[0].split("with DAG")[1].strip().splitlines()
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
    root = Path(__file__).resolve().parents[1]
    for target in re.findall(r"\]\((?!http|#)([^)]+)\)", README):
        assert (root / target).exists(), target
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    for anchor in re.findall(r"\]\(#([^)]+)\)", README):
        assert anchor in headings


@pytest.mark.parametrize("target", re.findall(r"`make ([a-z-]+)`", README))
def test_its_make_targets_exist(target):
    makefile = (Path(__file__).resolve().parents[1] / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
