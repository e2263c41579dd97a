"""What the benchmarks share: sandboxes and clients as processes, medians, tables."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).resolve().parent


@contextmanager
def sandbox(
    folder: Path, conversations: int, *, rate_limit: int = 10**9, window: float = 60.0, latency: float = 0.0
) -> Iterator[str]:
    """Run a sandbox with so many open conversations. Give its URL."""
    from client import AGENT, number

    seed = {
        "agents": [{"email": AGENT}],
        "conversations": [{"user_phone_number": number(index)} for index in range(conversations)],
    }
    (folder / "seed.json").write_text(json.dumps(seed))
    command = [sys.executable, str(HERE / "server.py"), str(folder / "seed.json")]
    process = subprocess.Popen(
        [*command, str(rate_limit), str(window), str(latency)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def python(script: str, *arguments: object, **environment: str) -> Any:
    """Run one of the scripts beside this one, and read the JSON it prints last."""
    result = subprocess.run(
        [sys.executable, str(HERE / script), *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        sys.exit(f"{script} {arguments} failed:\n{result.stdout}{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Write a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def median(values: Sequence[float]) -> float:
    """Give the median."""
    return statistics.median(values)


def machine() -> str:
    """Describe the machine and the versions."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    packages = ["apache-airflow", "apache-airflow-providers-http", "requests", "urllib3", "aiohttp"]
    packages += ["redis", "splashifypro", "airflow-provider-splashify"]
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{time.strftime('%Y-%m-%d')}; {os.cpu_count()} × {model}; {platform.system()} {platform.release()}; "
        f"Python {platform.python_version()}; {versions}."
    )
