"""What the bulk operator needs beyond its imports for so many assignments from a file."""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
from pathlib import Path

from client import AGENT, KEY, number

count, url = int(sys.argv[1]), sys.argv[2]
os.environ["AIRFLOW_CONN_SPLASHIFY_DEFAULT"] = json.dumps(
    {"conn_type": "splashify", "password": KEY, "host": url + "/api/v1", "extra": {"requests_per_minute": 1000}}
)

# All that the operator imports when it runs.
from splashify_provider import rate_limit  # noqa: E402
from splashify_provider.operators.splashify import SplashifyBulkAssignOperator  # noqa: E402

# The limiter remembers what it has sent within a window. That of 100,000 a minute would be all of it.
rate_limit.WINDOW = 0.6


class Store(dict):  # type: ignore[type-arg]
    """Airflow's task state store is in another process; so is this one's content, as good as."""

    def set(self, key: str, value: str) -> None:
        """Take a value, and forget it."""


def peak() -> float:
    """Give the most memory this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "plan.csv"
    with path.open("w") as stream:
        stream.write("user_phone_number,agent_email\n")
        stream.writelines(f"+{number(index)},{AGENT}\n" for index in range(count))
    baseline = peak()
    operator = SplashifyBulkAssignOperator(task_id="bulk", assignments=str(path), report_path=f"{folder}/report.jsonl")
    summary = operator.execute({"task_state_store": Store()})
    assert summary["counts"] == {"assigned": count}, summary
print(json.dumps({"baseline": baseline, "peak": peak()}))
