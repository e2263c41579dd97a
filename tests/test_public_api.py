"""The public names and signatures, held against one file. ``python -m tests.test_public_api`` writes it anew."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

from splashify_provider.retry_policy import DEFAULT_RETRY_POLICY

GOLDEN = Path(__file__).with_name("public_api.txt")
MODULES = (
    "agent_email",
    "bulk.assignment",
    "client",
    "exceptions",
    "hooks.splashify",
    "operators.plan",
    "operators.splashify",
    "phone_numbers",
    "retry_policy",
    "routing",
    "sandbox.server",
    "sql",
    "task_groups.handover",
)


def public_names(module):
    if hasattr(module, "__all__"):
        return {name: getattr(module, name) for name in module.__all__}
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }


def signature_of(value):
    return re.sub(r"= <.*?>+(?=[,)])", "= ...", str(inspect.signature(value)))


def lines_of(name, value):
    if not inspect.isclass(value):
        yield f"{name}{signature_of(value)}"
        return
    bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
    # Errors that add nothing have the signature of their base, which older Pythons name otherwise.
    signature = signature_of(value) if "__init__" in vars(value) else "(...)"
    yield f"class {name}({bases}){signature}"
    for member, defined in sorted(vars(value).items()):
        if member.startswith("_"):
            continue
        if isinstance(defined, (classmethod, staticmethod)):
            defined = defined.__func__
        if inspect.isfunction(defined):
            yield f"    {member}{signature_of(defined)}"
        elif isinstance(defined, property) or type(defined).__name__ == "cached_property":
            yield f"    {member}"


def described():
    lines = []
    for module_name in MODULES:
        module = importlib.import_module(f"splashify_provider.{module_name}")
        lines.append(f"# splashify_provider.{module_name}")
        for name, value in sorted(public_names(module).items()):
            if inspect.isclass(value) or inspect.isfunction(value):
                lines += lines_of(name, value)
        lines.append("")
    return "\n".join(lines)


@pytest.mark.skipif(DEFAULT_RETRY_POLICY is None, reason="Airflow before 3.3 has no retry policies")
def test_the_public_names_and_signatures_are_those_on_file():
    assert described() == GOLDEN.read_text()


if __name__ == "__main__":
    GOLDEN.write_text(described())
