from __future__ import annotations

import pytest

from tests.operators.bulk_task import Instance, Store


@pytest.fixture
def old_airflow():
    """Airflow before 3.3 has no task state store."""
    return {"ti": Instance()}


@pytest.fixture
def context():
    return {"ti": Instance(), "task_state_store": Store()}
