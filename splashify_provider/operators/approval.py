"""A person approves the plan before anything moves (Airflow 3.1 and later)."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import AirflowSkipException
from airflow.providers.standard.operators.hitl import ApprovalOperator


class PlanApprovalOperator(ApprovalOperator):
    """Ask whether to carry a plan out, unless there is nothing to carry out.

    :param plan_task_id: The task that plans.
    """

    def __init__(self, *, plan_task_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan_task_id = plan_task_id

    def execute(self, context: Any) -> None:
        """Ask.

        :param context: Airflow's task context.
        :raises AirflowSkipException: If the plan is empty, or for a dry run.
        """
        if not context["ti"].xcom_pull(task_ids=self.plan_task_id):
            raise AirflowSkipException("Nothing is to be moved, so there is nothing to approve.")
        super().execute(context)
