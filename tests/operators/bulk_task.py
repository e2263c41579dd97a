"""One try after another of a task of the bulk operator."""

from __future__ import annotations

import json
from types import SimpleNamespace

from splashify_provider.operators.splashify import SplashifyBulkAssignOperator


class Store(dict):
    """Airflow's task state store, as a dict: outlives tries and clearing."""

    def set(self, key, value):
        json.dumps(value, allow_nan=False)
        assert key.isascii()
        assert value is not None
        assert len(value) < 65535
        self[key] = value


class Instance(SimpleNamespace):
    """A task instance, and what it pushed."""

    def __init__(self):
        super().__init__(dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1, pushed={})

    def xcom_push(self, key, value):
        self.pushed[key] = json.loads(json.dumps(value))


def run(assignments, context=None, **arguments):
    operator = SplashifyBulkAssignOperator(task_id="assign", assignments=assignments, **arguments)
    return operator.execute(context or {})


def read(path):
    """Give the lines of a report that are about a row."""
    return [entry for entry in map(json.loads, path.read_text().splitlines()) if entry]


def replace_the_key(sandbox, posted, after):
    """Have the sandbox accept another key only, once so many have been assigned."""
    assign = sandbox.workspace.assign

    def assign_and_count(phone, agent):
        answer = assign(phone, agent)
        if len(posted) == after:
            sandbox.workspace.keys = frozenset({"sk_live_new"})
        return answer

    sandbox.workspace.assign = assign_and_count
