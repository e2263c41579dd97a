from __future__ import annotations

import pytest

from splashify_provider.hooks.splashify import SplashifyHook
from splashify_provider.operators.splashify import SplashifyAssignOperator
from tests.operators.bulk_task import Instance, Store


@pytest.fixture
def old_airflow():
    """Airflow before 3.3 has no task state store."""
    return {"ti": Instance()}


@pytest.fixture
def context():
    return {"ti": Instance(), "task_state_store": Store()}


@pytest.fixture
def run(sandbox, connect, sleeps):
    """Execute an operator against the sandbox."""
    connect(sandbox.base_url)

    def execute(operator=SplashifyAssignOperator, context=None, **arguments):
        made = operator(task_id="assign", **arguments)
        made.__dict__["hook"] = SplashifyHook(made.splashify_conn_id, sleep=sleeps.append)
        return made.execute(context or {})

    return execute
