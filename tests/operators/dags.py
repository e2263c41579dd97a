"""What Airflow makes of a DAG."""

from __future__ import annotations


def serialize(dag):
    """Take a DAG through the form in which the scheduler gets it."""
    try:
        from airflow.serialization.serialized_objects import DagSerialization as Serializer
    except ImportError:
        from airflow.serialization.serialized_objects import SerializedDAG as Serializer
    return Serializer.from_dict(Serializer.to_dict(dag))
