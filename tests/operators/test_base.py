from __future__ import annotations

import contextlib
import json
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import (
    DAG,
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    task,
)
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from splashify_provider.exceptions import SplashifyConfigurationError
from splashify_provider.operators.base import parse_flag
from splashify_provider.operators.splashify import (
    SplashifyAssignOperator,
    SplashifyBulkAssignOperator,
    SplashifyReleaseOperator,
    skip_if_too_old,
)
from tests.conftest import ADA, BEN, DAN, PHONE, requests_to, rows
from tests.operators.dags import serialize


class TestMissingConnection:
    def test_it_fails_at_once_and_is_named(self):
        operator = SplashifyAssignOperator(
            task_id="assign", user_phone_number=PHONE, agent_email=ADA, splashify_conn_id="no_such"
        )
        with pytest.raises(AirflowFailException, match="Create connection 'no_such'"):
            operator.execute({})


class TestFlag:
    @pytest.mark.parametrize(
        ("value", "flag"), [(True, True), (False, False), ("True", True), (" false ", False), ("TRUE", True)]
    )
    def test_it_is_a_bool_or_its_word(self, value, flag):
        assert parse_flag("dry_run", value) is flag

    @pytest.mark.parametrize("value", ["", " ", "None", "no", "1", "{{ params.dry_run }}", 0, 1, None, [], "x" * 10**6])
    def test_anything_else_is_refused_by_name(self, value):
        with pytest.raises(SplashifyConfigurationError, match="^check_agents must be True or False, not "):
            parse_flag("check_agents", value)


class TestDryRun:
    @pytest.mark.parametrize(
        "made",
        [
            lambda dry_run: SplashifyAssignOperator(
                task_id="t", user_phone_number=PHONE, agent_email=BEN, dry_run=dry_run
            ),
            lambda dry_run: SplashifyReleaseOperator(task_id="t", user_phone_number=PHONE, dry_run=dry_run),
            lambda dry_run: SplashifyBulkAssignOperator(task_id="t", releases=[PHONE], dry_run=dry_run),
        ],
    )
    def test_it_may_be_a_template(self, sandbox, connect, made):
        connect(sandbox.base_url)
        for wanted, requests in ((True, 0), (False, 1)):
            operator = made("{{ params.dry_run }}")
            operator.render_template_fields({"params": {"dry_run": wanted}})
            operator.execute({})
            assert requests_to(sandbox) == requests

    def test_it_may_be_one_in_a_mapped_task_and_another_tasks_result(self):
        with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)) as dag:

            @task
            def rehearse():
                return True

            SplashifyAssignOperator.partial(task_id="mapped", dry_run="{{ params.dry_run }}").expand_kwargs(
                [{"user_phone_number": PHONE, "agent_email": ADA}]
            )
            SplashifyReleaseOperator(task_id="fed", user_phone_number=PHONE, dry_run=rehearse())
        copy = serialize(dag)
        assert copy.get_task("fed").upstream_task_ids == {"rehearse"}
        made = dag.get_task("mapped").unmap({"user_phone_number": PHONE, "agent_email": ADA})
        made.render_template_fields({"params": {"dry_run": True}})
        made.check_arguments()
        assert made.is_dry_run is True


class TestLabel:
    MAPPED = SimpleNamespace(map_index=3)

    def label(self, operator, context):
        with contextlib.suppress(AirflowException):
            operator.execute(context)
        if not (template := context.get("map_index_template")):
            return None
        return SandboxedEnvironment(undefined=StrictUndefined).from_string(template).render(context)

    @pytest.mark.parametrize(
        ("operator", "arguments", "label"),
        [
            (SplashifyAssignOperator, {"user_phone_number": "+" + PHONE, "agent_email": BEN}, f"…0101 → {BEN}"),
            (
                SplashifyAssignOperator,
                {"user_phone_number": PHONE, "agent_email": "{{x}}@a.com"},
                "…0101 → {{x}}@a.com",
            ),
            (SplashifyAssignOperator, {"user_phone_number": PHONE, "agent_email": DAN}, f"…0101 → {DAN}"),
            (SplashifyAssignOperator, {"user_phone_number": "9876543210", "agent_email": BEN}, f"…3210 → {BEN}"),
            (SplashifyAssignOperator, {"user_phone_number": None, "agent_email": None}, "… → None"),
            (SplashifyReleaseOperator, {"user_phone_number": PHONE}, "…0101 released"),
            (SplashifyBulkAssignOperator, {"assignments": rows(7)}, f"…0007 → {ADA}"),
            (SplashifyBulkAssignOperator, {"assignments": json.dumps(rows(7, 8))}, "2 moves"),
            (SplashifyBulkAssignOperator, {"releases": [PHONE]}, "…0101 released"),
            (SplashifyBulkAssignOperator, {"releases": [PHONE] * 12, "on_invalid": "x"}, "12 releases"),
            (SplashifyBulkAssignOperator, {"assignments": "/no/such/file.csv"}, None),
            (SplashifyBulkAssignOperator, {"assignments": "None"}, None),
        ],
    )
    def test_a_mapped_task_has_one_even_if_it_fails(self, sandbox, connect, operator, arguments, label):
        connect(sandbox.base_url)
        assert self.label(operator(task_id="t", **arguments), {"ti": self.MAPPED}) == label

    @pytest.mark.parametrize(
        ("context", "arguments"),
        [
            ({}, {}),
            ({"ti": SimpleNamespace(map_index=-1)}, {}),
            ({"ti": SimpleNamespace()}, {}),
            ({"ti": MAPPED}, {"map_index_template": "mine"}),
        ],
    )
    def test_others_and_those_with_their_own_have_none(self, sandbox, connect, context, arguments):
        connect(sandbox.base_url)
        operator = SplashifyReleaseOperator(task_id="t", user_phone_number=PHONE, **arguments)
        assert self.label(operator, context) is None

    def test_one_that_the_context_has_already_stays(self, sandbox, connect):
        connect(sandbox.base_url)
        context = {"ti": self.MAPPED, "map_index_template": "mine"}
        assert self.label(SplashifyReleaseOperator(task_id="t", user_phone_number=PHONE), context) == "mine"


class TestMaxRunAge:
    HOURS = timedelta(hours=1)

    def ago(self, hours):
        return datetime.now(timezone.utc) - timedelta(hours=hours)

    def test_a_run_within_its_age_acts(self, run):
        context = {"data_interval_end": self.ago(7.9)}
        assert run(user_phone_number=PHONE, agent_email=BEN, max_run_age=8 * self.HOURS, context=context)

    def test_an_older_run_skips_and_says_how_old_it_is_and_how_to_force_it(self, run, sandbox):
        context = {"data_interval_end": self.ago(51)}
        with pytest.raises(AirflowSkipException) as raised:
            run(user_phone_number=PHONE, agent_email=BEN, max_run_age=8 * self.HOURS, context=context)
        assert "2 d 3 h ago" in str(raised.value)
        assert "max_run_age is 8 h" in str(raised.value)
        assert "To force" in str(raised.value)
        assert requests_to(sandbox) == 0

    @pytest.mark.parametrize(
        "context",
        [
            {"data_interval_end": 9, "dag_run": {"run_after": 1}, "logical_date": 33},
            {"dag_run": {"data_interval_end": 9, "run_after": 1, "logical_date": 33}},
            {"data_interval_end": 33, "logical_date": 9},  # by hand, in Airflow 2 or with data intervals
            {"dag_run": {"data_interval_end": None, "run_after": 9, "logical_date": 1}},
            {"dag_run": {"logical_date": 9}},
            {"dag_run": {}, "logical_date": 9},
        ],
    )
    def test_age_is_measured_from_the_data_interval_then_from_when_it_was_due(self, context):
        made = {
            key: SimpleNamespace(**{name: hours and self.ago(hours) for name, hours in value.items()})
            if isinstance(value, dict)
            else self.ago(value)
            for key, value in context.items()
        }
        made["ti"] = SimpleNamespace(start_date=self.ago(0), try_number=3)  # the clock of the retry
        with pytest.raises(AirflowSkipException, match="9 h ago"):
            skip_if_too_old(made, timedelta(hours=8))
        skip_if_too_old(made, timedelta(hours=10))
        skip_if_too_old(made, None)

    def test_a_run_without_any_date_is_an_error_not_a_guess(self, run):
        with pytest.raises(AirflowFailException, match="neither a data interval nor a date"):
            run(user_phone_number=PHONE, agent_email=BEN, max_run_age=self.HOURS, context={"dag_run": None})
