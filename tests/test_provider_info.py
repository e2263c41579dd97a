from __future__ import annotations

import ast
import importlib
import json
import logging
import subprocess
import sys
import warnings
from importlib.metadata import entry_points, version
from pathlib import Path

import airflow
import jsonschema
import pytest
from packaging.version import Version

import splashify_provider
from splashify_provider.get_provider_info import get_provider_info

AIRFLOW = Path(airflow.__file__).parent
AIRFLOW_VERSION = Version(version("apache-airflow"))
PACKAGE = Path(splashify_provider.__file__).parent


def schema(name):
    return json.loads((AIRFLOW / name).read_text())


def test_it_is_valid_for_this_airflow():
    jsonschema.validate(get_provider_info(), schema("provider_info.schema.json"))


@pytest.mark.skipif(Version("3.3") > AIRFLOW_VERSION, reason="earlier schemas lack hook-name and conn-fields")
def test_it_is_valid_for_the_stricter_schema_too():
    # What a provider released by Airflow itself carries besides.
    release = {"state": "ready", "source-date-epoch": 0, "versions": [splashify_provider.__version__]}
    jsonschema.validate({**get_provider_info(), **release}, schema("provider.yaml.schema.json"))


def test_it_is_found_by_its_entry_point_under_the_name_of_the_distribution():
    (found,) = [point for point in entry_points(group="apache_airflow_provider") if point.value.startswith("splashify")]
    assert found.load()() == get_provider_info()
    assert found.dist.name == get_provider_info()["package-name"]
    assert found.dist.version == splashify_provider.__version__


def test_everything_it_names_exists():
    def strings(value):
        if isinstance(value, dict):
            for item in value.values():
                yield from strings(item)
        elif isinstance(value, list):
            for item in value:
                yield from strings(item)
        else:
            yield value

    named = [text for text in strings(get_provider_info()) if str(text).startswith("splashify_provider.")]
    assert len(named) == 5
    for name in named:
        module, _, attribute = name.rpartition(".")
        if attribute[0].isupper():
            assert hasattr(importlib.import_module(module), attribute)
        else:
            importlib.import_module(name)


def test_it_imports_nothing():
    tree = ast.parse((PACKAGE / "get_provider_info.py").read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"__future__", "typing"}


def form():
    """What this version's connection form is made from: labels of standard fields, and the extra fields."""
    if Version("3.0") > AIRFLOW_VERSION:
        from airflow.providers_manager import ProvidersManager

        return ProvidersManager().field_behaviours["splashify"]["relabeling"], set()
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

    (meta,) = [meta for meta in HookMetaService.hook_meta_data() if meta.connection_type == "splashify"]
    fields = dict(meta.standard_fields or {})
    return {name: field.title for name, field in fields.items() if field and field.title}, set(meta.extra_fields or {})


def test_airflow_finds_the_connection_type_without_a_warning(caplog):
    from airflow.providers_manager import ProvidersManager

    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        form()  # first, as a fresh web server does
        manager = ProvidersManager()
        assert "airflow-provider-splashify" in manager.providers
        hook = manager.hooks["splashify"]
    assert hook.hook_name == "Splashify Pro"
    assert hook.connection_id_attribute_name == "splashify_conn_id"
    assert hook.connection_testable
    texts = [str(warning.message) for warning in warned] + [record.getMessage() for record in caplog.records]
    assert not [text for text in texts if "splashify" in text.lower()]


@pytest.mark.skipif(
    AIRFLOW_VERSION.release[:2] == (3, 0), reason="Airflow 3.0 makes such forms with the FAB provider only"
)
def test_the_form_has_labels_of_its_own():
    assert form()[0] == {"host": "Base URL", "password": "API key"}


@pytest.mark.skipif(Version("3.2") > AIRFLOW_VERSION, reason="fields come from the metadata since 3.2")
def test_the_extras_are_fields_of_the_form():
    assert form()[1] == {
        "default_region", "timeout", "max_attempts", "requests_per_minute", "burst", "rate_limit_storage",
        "auth_scheme", "proxies", "verify",
    }  # fmt: skip


IMPORTS = """
import sys, json
{}
print(json.dumps(sorted(sys.modules)))
"""


def modules_after(statement):
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORTS.format(statement)], capture_output=True, text=True, check=True
    )
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_parsing_a_dag_loads_no_http_and_no_phone_library():
    before = modules_after(
        "from airflow.providers.common.compat.sdk import BaseOperator, AirflowFailException, AirflowSkipException"
    )
    after = modules_after("import splashify_provider.operators.splashify")
    added = {name.split(".")[0] for name in after - before}
    assert "splashify_provider" in added
    assert not added & {"requests", "urllib3", "phonenumbers", "aiohttp", "tenacity", "redis"}
    if AIRFLOW_VERSION >= Version("3.2"):  # older ones load some of them by themselves
        assert not after & {"requests", "phonenumbers", "aiohttp"}


def test_a_dag_with_a_hand_over_loads_no_routing_when_it_is_parsed():
    parsed = """
from datetime import datetime, timezone
from airflow.providers.common.compat.sdk import DAG
from splashify_provider.task_groups.handover import SplashifyHandoverTaskGroup
with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)):
    SplashifyHandoverTaskGroup(shifts=[], conversations=[], write_back=print)
"""
    loaded = modules_after(parsed)
    assert "splashify_provider.operators.plan" in loaded
    assert not {name for name in loaded if name.startswith(("splashify_provider.routing", "splashify_provider.client"))}


def test_importing_the_routing_loads_neither_airflow_nor_anything_slow():
    added = {name.split(".")[0] for name in modules_after("import splashify_provider.routing")}
    assert not added & {"airflow", "phonenumbers", "requests", "icalendar", "recurring_ical_events"}


def test_the_client_and_what_is_below_it_load_no_airflow():
    added = {name.split(".")[0] for name in modules_after("import splashify_provider.client")}
    assert "splashify_provider" in added
    assert "airflow" not in added


def test_the_package_root_is_a_version():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    assert [type(node).__name__ for node in tree.body] == ["Assign"]


# From the bottom up: a module imports only what stands before it.
ORDER = (
    "get_provider_info",
    "redaction",
    "rate_limit",
    "task_errors",
    "exceptions",
    "sql",
    "agent_email",
    "phone_numbers",
    "bounded_http",
    "retry_policy",
    "client",
    "connection",
    "bulk.assignment",
    "bulk.sources",
    "bulk.preflight",
    "bulk.agents",
    "bulk.decisions",
    "bulk.sender",
    "bulk.agent_check",
    "bulk.checkpoint",
    "bulk.report",
    "bulk.progress",
    "hooks.splashify",
    "routing.fields",
    "routing.shifts",
    "routing.calendar_bounds",
    "routing.calendars",
    "routing.policy",
    "routing.rendezvous",
    "routing.plan",
    "routing.conversations",
    "routing.reasons",
    "routing.planner",
    "operators.base",
    "operators.bulk",
    "operators.plan",
    "operators.splashify",
    "operators.approval",
    "operators.handover_state",
    "operators.write_back",
    "operators.summary",
    "task_groups.handover",
    "sandbox.workspace",
    "sandbox.control",
    "sandbox.server",
    "sandbox.__main__",
)
# What these folders know of the rest of the package.
KNOWN_TO = {
    "bulk": {"agent_email", "client", "exceptions", "rate_limit", "redaction", "task_errors"},  # not the hook
    "routing": {"agent_email", "exceptions", "phone_numbers", "redaction"},  # not Splashify
    "sandbox": {"agent_email", "exceptions", "rate_limit", "redaction"},
}


def test_imports_run_downwards_only():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        if path.name == "__init__.py":
            continue
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        ours = [node.module for node in nodes if node.module and node.module.split(".")[0] == "splashify_provider"]
        found[name] = {module.removeprefix("splashify_provider").lstrip(".") for module in ours} - {""}
    assert set(found) == set(ORDER)
    for name, imported in found.items():
        assert not [other for other in imported if ORDER.index(other) >= ORDER.index(name)], name
        folder = name.partition(".")[0]
        if folder in KNOWN_TO:
            assert {other for other in imported if not other.startswith(folder)} <= KNOWN_TO[folder], name
