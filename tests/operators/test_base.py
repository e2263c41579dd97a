from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from splashify_provider.operators.splashify import SplashifyAssignOperator, skip_if_too_old
from tests.conftest import ADA, BEN, PHONE, requests_to


class TestMissingConnection:
    def test_it_fails_at_once_and_is_named(self):
        operator = SplashifyAssignOperator(
            task_id="assign", user_phone_number=PHONE, agent_email=ADA, splashify_conn_id="no_such"
        )
        with pytest.raises(AirflowFailException, match="Create connection 'no_such'"):
            operator.execute({})


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
