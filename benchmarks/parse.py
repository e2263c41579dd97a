"""What an import adds to ``import airflow.sdk``, in milliseconds."""

from __future__ import annotations

import importlib
import json
import sys
import time

from airflow.sdk import DAG, BaseOperator, task  # noqa: F401 - a DAG file has loaded these

started = time.perf_counter()
importlib.import_module(sys.argv[1])
print(json.dumps({"ms": (time.perf_counter() - started) * 1000}))
