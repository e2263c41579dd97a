"""The package as users get it: built, installed into an environment of its own, seen by Airflow's command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MINOR = ".".join(version("apache-airflow").split(".")[:2])

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "-o", folder, ROOT], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def airflow(wheel, tmp_path_factory):
    """Run ``airflow`` commands where only the wheel and what it depends on is installed."""
    folder = tmp_path_factory.mktemp("installed")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHONPATH"))}
    environment |= {
        "AIRFLOW_HOME": str(folder / "home"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PATH": f"{folder / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }

    def uv(*command):
        subprocess.run([sys.executable, "-m", "uv", *command], env=environment, check=True, cwd=folder)

    uv("venv", "--quiet", "--python", sys.executable, folder / "venv")
    constraints = ROOT / "constraints" / f"airflow-{MINOR}.txt"
    options = ("--quiet", "--compile-bytecode", "--python", folder / "venv" / "bin" / "python", "-c", constraints)
    uv("pip", "install", *options, f"apache-airflow=={MINOR}.*", wheel)

    def run(*command):
        return subprocess.run(
            ["airflow", *command], env=environment, cwd=folder, check=True, text=True, capture_output=True
        )

    return run


def table(result):
    """Read a command's JSON, before which some versions print log lines."""
    return json.loads(result.stdout[result.stdout.index("[{") :])


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"splashify_provider"}
    for needed in ("py.typed", "sandbox/inbox.html", "sandbox/default_seed.json", "hooks/splashify.py"):
        assert f"splashify_provider/{needed}" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_airflow_lists_the_provider(airflow):
    listed = airflow("providers", "list", "-o", "json")
    (ours,) = [row for row in table(listed) if row["package_name"] == "airflow-provider-splashify"]
    assert ours["version"] == version("airflow-provider-splashify")
    hooks = table(airflow("providers", "hooks", "-o", "json"))
    assert "splashify" in [row["connection_type"] for row in hooks]
    assert "splashify" not in listed.stderr.lower()  # no warning


def test_a_connection_is_added_on_the_command_line(airflow):
    airflow("db", "migrate")
    key, extra = "sk_live_x", '{"default_region": "IN"}'
    airflow(
        "connections",
        "add",
        "splashify_default",
        "--conn-type",
        "splashify",
        "--conn-password",
        key,
        "--conn-extra",
        extra,
    )
    got = table(airflow("connections", "get", "splashify_default", "-o", "json"))[0]
    assert (got["conn_type"], got["password"]) == ("splashify", key)
