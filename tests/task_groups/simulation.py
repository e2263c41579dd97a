"""A run of a hand-over by its own operators, one after another: XCom is a dict, and states are what Airflow makes them.

Fast, and as true as its few rules; tests in a running Airflow show that these are Airflow's.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

from airflow.providers.common.compat.sdk import DAG, AirflowSkipException

from splashify_provider.task_groups.handover import SplashifyHandoverTaskGroup
from tests.conftest import number
from tests.operators.bulk_task import Store

AT = datetime(2026, 11, 25, 13, 0, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
ON_DUTY = ("ada", "ben", "chitra", "gita")
GONE = "zoe@example.com"


def make_group(write_back=None, dag_arguments=None, **arguments):
    """Give a hand-over in a DAG of its own."""
    start = datetime(2026, 1, 1, tzinfo=timezone.utc)
    with DAG("handover_dag", schedule=None, start_date=start, **(dag_arguments or {})):
        return SplashifyHandoverTaskGroup(**{"shifts": [], "conversations": [], "write_back": write_back, **arguments})


class Killed(BaseException):
    """The worker was killed."""


class Run:
    """A run, which may be cleared.

    :param group: The hand-over.
    :param due: When the run was due.
    """

    def __init__(self, group, due=AT):
        self.group, self.due = group, due
        self.states, self.xcoms, self.errors, self.stores = {}, {}, {}, {}

    def __call__(self):
        """Run what has not run, or was cleared. Return the summary."""
        if self.upstream:
            self.states[self.group.plan.task_id] = self.upstream
        elif self._may_run(self.group.plan):
            self._execute(self.group.plan)
        plan = self.states[self.group.plan.task_id]
        chunks = self._pull(self.group.plan.task_id) or []
        self._assign(plan, chunks)
        for task in filter(None, (self.group.write_back, self.group.summary)):
            if self._may_run(task):
                self._execute(task)
        return self._pull(self.group.summary.task_id)

    def _assign(self, plan, chunks):
        assign = self.group.assign
        if plan != "success" or not chunks or self.is_rejected:
            failed = plan in ("failed", "upstream_failed")
            self.states[assign.task_id] = "upstream_failed" if failed else "skipped"
            return
        self.states.pop(assign.task_id, None)
        for index, chunk in enumerate(chunks):
            if self.states.get(f"{assign.task_id}_{index}") not in ("success", "skipped"):
                arguments = {**assign.partial_kwargs, "task_id": "assign", **json.loads(json.dumps(chunk))}
                arguments = {name: arguments[name] for name in arguments if name not in ("dag", "task_group")}
                self._execute(assign.operator_class(**arguments), assign.task_id, index)

    upstream = None  # what the tasks before make of the plan: upstream_failed, or skipped
    is_rejected = False

    def reject(self):
        """Reject the plan, as soon as it is asked."""
        self.is_rejected = True
        self.states[self.group.approval.task_id] = "success"
        return self

    def clear(self, *task_ids):
        """Clear tasks (of a mapped one all instances), and run again."""
        for name in list(self.states):
            if name in task_ids or any(name.startswith(f"{task_id}_") and name[-1].isdigit() for task_id in task_ids):
                del self.states[name]
        return self()

    def clear_failed(self):
        """Clear what is red, and run again."""
        for name in [name for name, state in self.states.items() if state in ("failed", "upstream_failed")]:
            del self.states[name]
        return self()

    @property
    def is_green(self):
        return self.states[self.group.summary.task_id] == "success"

    def _may_run(self, task):
        return self.states.get(task.task_id) in (None, "failed", "upstream_failed")

    def _execute(self, task, task_id=None, map_index=-1):
        task_id = task_id or task.task_id
        name = task_id if map_index < 0 else f"{task_id}_{map_index}"
        for key in [key for key in self.xcoms if key[:2] == (task_id, map_index)]:
            del self.xcoms[key]
        try:
            context = self.context(task_id, map_index)
            if task._pre_execute_hook:
                task._pre_execute_hook(context)
            self._push(task_id, map_index, "return_value", task.execute(context))
            self.states[name] = "success"
        except AirflowSkipException:
            self.states[name] = "skipped"
        except (Exception, Killed) as error:
            self.states[name], self.errors[name] = "failed", error

    def context(self, task_id, map_index=-1):
        def push(key, value):
            self._push(task_id, map_index, key, value)

        ti = SimpleNamespace(
            dag_id="handover_dag",
            run_id="run",
            task_id=task_id,
            map_index=map_index,
            xcom_push=push,
            xcom_pull=lambda task_ids, key="return_value": self._pull(task_ids, key),
            get_task_states=lambda dag_id, task_ids, run_ids: {"run": self._states(task_ids)},
        )
        store = self.stores.setdefault((task_id, map_index), Store())
        return {"ti": ti, "run_id": "run", "data_interval_end": self.due, "task_state_store": store}

    def _states(self, task_ids):
        return {
            name: state
            for name, state in self.states.items()
            if any(name == task_id or name.startswith(f"{task_id}_") for task_id in task_ids)
        }

    def _push(self, task_id, map_index, key, value):
        if value is not None:
            self.xcoms[task_id, map_index, key] = json.loads(json.dumps(value))

    def _pull(self, task_id, key="return_value"):
        """One value comes as it is, those of several instances as a list."""
        found = [value for (task, _, kind), value in sorted(self.xcoms.items()) if (task, kind) == (task_id, key)]
        if task_id == self.group.assign.task_id and len(found) > 1:
            return found
        return found[0] if found else None


def email(name):
    return f"{name}@example.com"


def roster(*names, at=AT):
    times = {"starts_at": (at - HOUR).isoformat(), "ends_at": (at + HOUR).isoformat()}
    return [{"agent_email": email(name), **times} for name in names or ON_DUTY]


class Support:
    """A table of conversations, and Splashify with the same."""

    def __init__(self, start, holders):
        self.table = {f"+{number(index)}": holder for index, holder in enumerate(holders)}
        chats = [{"user_phone_number": phone[1:], "agent_email": holder} for phone, holder in self.table.items()]
        agents = [{"email": email(name)} for name in (*ON_DUTY, "zoe", "dora")]
        _, self.sandbox, self.posted = start({"agents": agents, "conversations": chats})

    def disable(self, *names):
        for name in names:
            self.sandbox.workspace.agents[email(name)].active = False

    def enable(self, *names):
        for name in names:
            self.sandbox.workspace.agents[email(name)].active = True

    @property
    def conversations(self):
        return [{"user_phone_number": phone, "agent_email": holder} for phone, holder in self.table.items()]

    def write_back(self, moves):
        for move in moves:
            assert set(move) == {"user_phone_number", "from_agent", "agent_email"}
            if self.table[move["user_phone_number"]] == move["from_agent"]:
                self.table[move["user_phone_number"]] = move["agent_email"]

    @property
    def in_splashify(self):
        chats = self.sandbox.workspace.conversations.values()
        return {f"+{chat.user_phone_number}": chat.agent_email for chat in chats}

    def holds(self):
        """Count what agents hold, in the table and in Splashify alike."""
        assert self.table == self.in_splashify
        return Counter(self.table.values())

    def run(self, due=AT, shifts=None, **arguments):
        group = make_group(self.write_back, shifts=shifts or roster(), conversations=self.conversations, **arguments)
        return Run(group, due)
