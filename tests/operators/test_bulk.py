from __future__ import annotations

import csv
import json
import signal
import threading
import time
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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splashify_provider.bulk import progress, record
from splashify_provider.exceptions import (
    AgentInactiveError,
    AuthenticationError,
    RateLimitError,
    ServerError,
    SplashifyConfigurationError,
)
from splashify_provider.hooks import batch
from splashify_provider.operators.splashify import SplashifyBulkAssignOperator
from tests.conftest import ADA, BEN, DAN, number, rows, team


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


@pytest.fixture
def old_airflow():
    """Airflow before 3.3 has no task state store."""
    return {"ti": Instance()}


@pytest.fixture
def context():
    return {"ti": Instance(), "task_state_store": Store()}


def run(assignments, context=None, **arguments):
    operator = SplashifyBulkAssignOperator(task_id="assign", assignments=assignments, **arguments)
    return operator.execute(context or {})


def read(path):
    """Give the lines of a report that are about a row."""
    return [entry for entry in map(json.loads, path.read_text().splitlines()) if "position" in entry]


class TestSuccess:
    def test_everything_is_assigned_and_a_small_summary_returned(self, workspace, log):
        _, sandbox, _ = workspace()
        assert run(rows(*range(300))) == {
            "total": 300,
            "counts": {"assigned": 300},
            "done_before": 0,
            "duplicates": 0,
            "failures": [],
        }
        assert sum(chat.agent_email == ADA for chat in sandbox.workspace.conversations.values()) == 300
        assert "300 rows: 300 to send" in log.text
        assert "assigned                       300" in log.text
        assert "12025550" not in log.text

    def test_nothing_to_do_is_a_success(self, workspace):
        workspace()
        assert run([])["total"] == 0

    def test_the_same_number_and_agent_twice_is_sent_once_however_they_are_written(self, workspace):
        _, _, posted = workspace()
        twice = [
            {"user_phone_number": "+1 (202) 555-0007", "agent_email": "Ada@example.com".lower()},
            {"user_phone_number": "12025550007", "agent_email": f" {ADA} "},
        ]
        assert run(twice)["duplicates"] == 1
        assert posted == [(number(7), ADA)]

    def test_progress_is_logged_every_few_seconds(self, workspace, log, monkeypatch):
        monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
        workspace(team(n1="bad_request"))
        with pytest.raises(AirflowFailException):
            run(rows(*range(50)))
        assert "25 of 50 (50 %)" in log.text
        assert "24 assigned, 1 rejected" in log.text
        assert " a second, " in log.text
        assert " left." in log.text


class TestChecking:
    def test_all_bad_rows_are_reported_at_once_and_nothing_is_sent(self, workspace, log):
        _, sandbox, _ = workspace()
        bad = [
            *rows(1),
            {"user_phone_number": "9876543210", "agent_email": ADA},
            {"user_phone_number": "+" + number(2), "agent_email": ""},
            {"agent_email": ADA},
            None,
            *rows(3, agent=ADA),
            *rows(3, agent=BEN),
        ]
        with pytest.raises(AirflowFailException, match="5 of 7 rows can't be sent, so nothing was sent") as raised:
            run(bad)
        assert isinstance(raised.value.__cause__, SplashifyConfigurationError)
        text = str(raised.value)
        for position, why in [(2, "…3210"), (3, "release()"), (4, "missing"), (5, "NoneType"), (7, "row 6 gives")]:
            assert f"Row {position} " in text
            assert why in text
            assert f"Row {position} " in log.text
        assert "9876543210" not in text + log.text
        assert not sandbox.workspace.answers

    def test_two_agents_for_one_number_fail_even_where_invalid_rows_are_skipped(self, workspace):
        _, sandbox, _ = workspace()
        clash = [{"user_phone_number": "+1 202 555 0003", "agent_email": ADA}, *rows(3, agent=BEN)]
        with pytest.raises(AirflowFailException, match="row 1 gives the same number to ada@example.com"):
            run(clash, on_invalid="skip")
        assert not sandbox.workspace.answers

    def test_invalid_rows_can_be_left_out(self, workspace, tmp_path, log):
        _, _, posted = workspace()
        bad = {"user_phone_number": "9876543210", "agent_email": ADA}
        summary = run([*rows(1), bad, *rows(2)], on_invalid="skip", report_path=str(tmp_path / "r.jsonl"))
        assert summary["counts"] == {"assigned": 2, "invalid": 1}
        assert summary["failures"][0]["position"] == 2
        assert {phone for phone, _ in posted} == {number(1), number(2)}
        assert [line["outcome"] for line in read(tmp_path / "r.jsonl") if line["position"] == 2] == ["invalid"]
        assert "9876543210" not in (tmp_path / "r.jsonl").read_text() + log.text

    def test_a_list_of_nothing_but_invalid_rows_is_no_fault(self, workspace, monkeypatch):
        monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
        workspace()
        assert run(rows(1, agent=""), on_invalid="skip")["counts"] == {"invalid": 1}

    def test_thousands_of_bad_rows_make_a_short_error(self, workspace):
        workspace()
        with pytest.raises(AirflowFailException, match="and 4,980 more") as raised:
            run([{"user_phone_number": "12", "agent_email": ADA}] * 5000)
        assert len(str(raised.value)) < 6000

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(st.integers(0, 8), st.sampled_from([ADA, BEN, ""])), max_size=25))
    def test_whatever_the_list_either_all_of_it_is_done_or_nothing_is_sent(self, workspace, chosen):
        _, _, posted = workspace()
        wanted = {}
        for index, agent in chosen:
            wanted.setdefault(number(index), set()).add(agent)
        try:
            run([row for index, agent in chosen for row in rows(index, agent=agent)])
        except AirflowFailException:
            assert any(len(agents) > 1 or agents == {""} for agents in wanted.values())
            assert not posted
        else:
            assert sorted(posted) == sorted((phone, agent) for phone, (agent,) in wanted.items())

    @pytest.mark.parametrize(
        "wrong",
        [
            {"on_invalid": "ignore"},
            {"on_conversation_not_found": "ignore"},
            {"fail_on_partial_error": "no"},
            {"report_phone_numbers": True},
            {"max_in_flight": 0},
            {"max_consecutive_failures": "3"},
            {"max_run_age": 8},
            {"dry_run": "False"},
        ],
    )
    def test_a_wrong_argument_is_named_before_anything_is_sent(self, workspace, wrong):
        _, sandbox, _ = workspace()
        with pytest.raises(AirflowFailException, match=next(iter(wrong))):
            run(rows(1), **wrong)
        assert not sandbox.workspace.answers

    def test_a_dry_run_checks_everything_and_sends_nothing(self, workspace, log, tmp_path):
        _, sandbox, _ = workspace()
        summary = run(rows(1, 2, 2), dry_run=True, report_path=str(tmp_path / "r.jsonl"))
        assert (summary["total"], summary["duplicates"], summary["counts"]) == (3, 1, {})
        with pytest.raises(AirflowFailException):
            run(rows(1, agent=""), dry_run=True)
        assert "would send 2 assignments" in log.text
        assert not sandbox.workspace.answers
        assert not (tmp_path / "r.jsonl").exists()

    def test_an_old_run_skips(self, workspace):
        _, sandbox, _ = workspace()
        due = datetime.now(timezone.utc) - timedelta(hours=9)
        with pytest.raises(AirflowSkipException, match="9 h ago"):
            run(rows(1), {"data_interval_end": due}, max_run_age=timedelta(hours=8))
        assert not sandbox.workspace.answers


class TestFailures:
    def test_what_waiting_cannot_heal_fails_for_good_with_the_reason_and_a_summary(self, workspace, context, log):
        workspace()
        with pytest.raises(AirflowFailException, match=r"1 of 30 assignments are not done\. Agent inactive") as raised:
            run([*rows(*range(29)), *rows(29, agent=DAN)], context)
        assert isinstance(raised.value.__cause__, AgentInactiveError)
        summary = context["ti"].pushed["return_value"]
        assert summary["counts"] == {"assigned": 29, "agent_inactive": 1}
        (failure,) = summary["failures"]
        assert (failure["position"], failure["user_phone_number"], failure["agent_email"]) == (30, "…0029", DAN)
        assert "Enable them under Settings → Team" in failure["message"]
        assert "30 agent_inactive: Agent inactive" in log.text

    def test_what_waiting_may_heal_is_left_to_airflows_retries(self, workspace, context):
        workspace(team(n3="server_error"))
        with pytest.raises(ServerError, match="2 of 10 assignments are not done"):
            run([*rows(*range(9)), *rows(9, agent=DAN)], context)

    def test_a_partial_failure_can_be_a_success_but_a_total_one_is_none(self, workspace):
        workspace()
        summary = run([*rows(1), *rows(2, agent=DAN)], fail_on_partial_error=False)
        assert summary["counts"] == {"assigned": 1, "agent_inactive": 1}
        with pytest.raises(AirflowFailException):
            run(rows(2, 3, agent=DAN), fail_on_partial_error=False)

    def test_customers_without_a_conversation_fail_unless_they_are_to_be_skipped(self, workspace):
        workspace(team(5))
        with pytest.raises(AirflowFailException, match="no open conversation"):
            run(rows(1, 9))
        summary = run(rows(1, 9), on_conversation_not_found="skip")
        assert summary["counts"] == {"assigned": 1, "conversation_not_found": 1}
        assert summary["failures"] == []

    def test_a_refused_key_stops_and_fails_for_good(self, workspace, connect, context):
        _, sandbox, _ = workspace()
        connect(sandbox.base_url, password="sk_live_old")
        with pytest.raises(AirflowFailException, match="the batch was stopped.*does not accept the API key") as raised:
            run(rows(*range(200)), context, fail_on_partial_error=False)
        assert isinstance(raised.value.__cause__, AuthenticationError)
        counts = context["ti"].pushed["return_value"]["counts"]
        assert counts["not_attempted"] >= 192
        assert len(context["ti"].pushed["return_value"]["failures"]) == 100

    def test_a_long_wait_is_raised_with_its_length(self, workspace, context):
        workspace(team(n30="rate_limited_long"))
        with pytest.raises(RateLimitError, match="the batch was stopped") as raised:
            run(rows(*range(60)), context)
        assert raised.value.retry_after == 600

    def test_a_missing_connection_is_named(self):
        with pytest.raises(AirflowFailException, match="create connection 'no_such'"):
            run(rows(1), splashify_conn_id="no_such")


class TestInputs:
    WAYS = ("list", "tuple", "generator", "json", "jsonl", "csv", "semicolons", "excel", "uri")

    @pytest.mark.parametrize("way", WAYS)
    def test_a_list_json_text_and_files_mean_the_same(self, workspace, tmp_path, way):
        _, _, posted = workspace()
        plan = [{**row, "reason": "whatever; else"} for row in rows(*range(20))]
        path = tmp_path / ("plan.csv" if way in ("csv", "semicolons", "excel") else "plan.jsonl")
        if way in ("csv", "semicolons", "excel"):
            with path.open("w", newline="", encoding="utf-8-sig" if way == "excel" else "utf-8") as stream:
                separator = {"csv": ",", "semicolons": ";", "excel": "\t"}[way]
                writer = csv.DictWriter(stream, plan[0], delimiter=separator)
                writer.writeheader()
                writer.writerows(plan)
        else:
            path.write_text("\n".join(json.dumps(row) for row in plan) + "\n\n")
        given = {
            "list": plan,
            "tuple": tuple(plan),
            "generator": (row for row in plan),
            "json": f" {json.dumps(plan)}\n",
            "uri": path.as_uri(),
        }
        assert run(given.get(way, str(path)))["counts"] == {"assigned": 20}
        assert sorted(posted) == [(number(index), ADA) for index in range(20)]

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            ("phone,agent\n1,2\n", "no column user_phone_number and no column agent_email"),
            ("", "no column"),
            ("user_phone_number,agent_email\n+12025550001\n", "Row 1 .*e-mail is missing"),
            ('{"user_phone_number": "+12025550001", "agent_email": "ada@example.com"}\n{"user\n', "Row 2"),
            (b"user_phone_number,agent_email\n\xff\xfe,x\n", "not UTF-8"),
            (None, "does not exist"),
        ],
    )
    def test_a_file_that_cannot_be_read_is_an_error_that_says_why(self, workspace, tmp_path, content, why):
        _, sandbox, _ = workspace()
        path = tmp_path / "plan"
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(AirflowFailException, match=why):
            run(str(path))
        assert not sandbox.workspace.answers

    @pytest.mark.parametrize(
        ("given", "why"),
        [
            (None, "not NoneType"),
            ("", "neither JSON nor a path"),
            ("None", "neither JSON nor a path"),
            (str(rows(1)), "tojson"),
            ('{"user_phone_number": "1"}', "not a JSON list"),
            (rows(1)[0], "a list of rows"),
            (7, "not int"),
        ],
    )
    def test_anything_else_is_refused_with_a_hint(self, workspace, given, why):
        workspace()
        with pytest.raises(AirflowFailException, match=why):
            run(given)

    def test_a_file_that_changes_while_it_is_sent_is_noticed(self, workspace, tmp_path):
        _, _, posted = workspace()
        path = tmp_path / "plan.csv"
        lines = ["user_phone_number,agent_email", *(f"+{number(index)},{ADA}" for index in range(20))]
        path.write_text("\n".join(lines))
        operator = SplashifyBulkAssignOperator(task_id="assign", assignments=str(path))
        send = operator._send

        def change_and_send(*arguments):
            path.write_text("\n".join([*lines[:10], f"+{number(3)},{BEN}"]))
            send(*arguments)

        operator._send = change_and_send
        with pytest.raises(AirflowFailException, match=r"have changed since they were checked \(row 10\)"):
            operator.execute({})
        assert BEN not in {agent for _, agent in posted}

    def test_templates_are_rendered_natively_and_as_text(self, workspace):
        workspace()
        operator = SplashifyBulkAssignOperator(
            task_id="assign", assignments="{{ plan | tojson }}", report_path="{{ folder }}/{{ run_id }}.jsonl"
        )
        operator.render_template_fields({"plan": rows(1, 2), "folder": "/reports", "run_id": "r1"})
        assert operator.report_path == "/reports/r1.jsonl"
        operator.report_path = None
        assert operator.execute({})["total"] == 2


class TestReport:
    def test_every_item_has_a_line_with_a_masked_number(self, workspace, context, tmp_path):
        workspace()
        path = tmp_path / "new" / "report.jsonl"
        with pytest.raises(AirflowFailException):
            run([*rows(1, 2), *rows(3, agent=DAN)], context, report_path=str(path))
        lines = {line["position"]: line for line in read(path)}
        assert [lines[position]["outcome"] for position in (1, 2, 3)] == ["assigned", "assigned", "agent_inactive"]
        assert lines[1]["user_phone_number"] == "…0001"
        assert lines[3]["agent_email"] == DAN
        assert "Agent inactive" in lines[3]["message"]
        assert abs(datetime.fromisoformat(lines[1]["time"]) - datetime.now(timezone.utc)) < timedelta(minutes=1)
        assert "12025550" not in path.read_text()

    def test_whole_numbers_are_written_by_choice(self, workspace, tmp_path):
        workspace()
        run(rows(1), report_path=str(tmp_path / "r.jsonl"), report_phone_numbers="full")
        assert read(tmp_path / "r.jsonl")[0]["user_phone_number"] == number(1)

    def test_it_is_there_while_the_batch_runs(self, workspace, tmp_path, monkeypatch):
        workspace()
        path, seen = tmp_path / "r.jsonl", []
        write = record.Report.write

        def write_and_look(self, outcome):
            write(self, outcome)
            seen.append(len(read(path)))

        monkeypatch.setattr(record.Report, "write", write_and_look)
        run(rows(*range(30)), report_path=str(path))
        assert seen == list(range(1, 31))

    def test_another_runs_report_is_replaced(self, workspace, tmp_path):
        workspace()
        for run_id in ("one", "two"):
            ti = Instance()
            ti.run_id = run_id
            run(rows(*range(3)), {"ti": ti}, report_path=str(tmp_path / "r.jsonl"))
        assert len(read(tmp_path / "r.jsonl")) == 3

    def test_a_store_that_takes_whole_files_only_has_it_at_the_end(self, workspace, old_airflow, monkeypatch):
        from airflow.providers.common.compat.sdk import ObjectStoragePath
        from fsspec.implementations.memory import MemoryFileSystem

        try:
            from airflow.sdk.io import attach
        except ImportError:
            from airflow.io.store import attach
        attach("memory", fs=MemoryFileSystem())
        workspace(team(n3="server_error:3"))
        path = "memory://bucket/report.jsonl"
        with pytest.raises(ServerError):
            run(rows(*range(5)), old_airflow, report_path=path)
        assert ObjectStoragePath(path).read_text().count("\n") == 5
        monkeypatch.setattr(record, "_SECONDS_BETWEEN_UPLOADS", 0.0)
        assert run(rows(*range(5)), old_airflow, report_path=path)["done_before"] == 4
        assert ObjectStoragePath(path).read_text().count("\n") == 5 + 1 + 1  # and the end


class TestResuming:
    def test_a_retry_sends_only_what_is_not_done(self, workspace, context):
        _, sandbox, posted = workspace(team(n30="server_error", n31="bad_request"))
        with pytest.raises(ServerError):
            run(rows(*range(60)), context)
        assert len(posted) == 58
        sandbox.workspace.scenarios.clear()
        summary = run(rows(*range(60)), context)
        assert summary["done_before"] == 58
        assert summary["counts"] == {"assigned": 2}
        assert sorted(posted[58:]) == [(number(30), ADA), (number(31), ADA)]

    def test_a_batch_that_finished_forgets_so_clearing_it_sends_everything_again(self, workspace, context):
        _, _, posted = workspace()
        for _ in range(2):
            assert run(rows(*range(20)), context)["done_before"] == 0
        assert len(posted) == 40
        assert context["task_state_store"] == {}

    def test_it_goes_by_number_and_agent_never_by_position(self, workspace, context):
        _, sandbox, posted = workspace(team(n5="server_error"))
        with pytest.raises(ServerError):
            run(rows(*range(10)), context)
        sandbox.workspace.scenarios.clear()
        posted.clear()
        changed = [*rows(9, 8), *rows(2, agent=BEN), *rows(20, 5, 1)]
        assert run(changed, context)["done_before"] == 3
        assert sorted(posted) == [(number(2), BEN), (number(5), ADA), (number(20), ADA)]

    def test_a_new_key_sends_everything_again(self, workspace, context, connect):
        _, sandbox, posted = workspace()
        assign = sandbox.workspace.assign

        def replace_the_key_after_twenty(phone, agent):
            if len(posted) == 20:
                sandbox.workspace.keys = frozenset({"sk_live_new"})
            return assign(phone, agent)

        sandbox.workspace.assign = replace_the_key_after_twenty
        with pytest.raises(AirflowFailException, match="API key"):
            run(rows(*range(50)), context)
        before = len(posted)
        assert 20 <= before <= 30
        connect(sandbox.base_url, password="sk_live_new", extra={"requests_per_minute": 100_000})
        assert run(rows(*range(50)), context)["done_before"] == 0
        assert len(posted) == before + 50

    def test_the_store_holds_no_number_and_small_values(self, workspace, context):
        workspace(team(3000, n2999="bad_request"))
        with pytest.raises(AirflowFailException):
            run(rows(*range(3000)), context)
        store = context["task_state_store"]
        assert len(store) == 3
        assert not any(number(index) in value for value in store.values() for index in (0, 1, 2))

    def test_it_is_saved_in_chunks_and_at_least_every_few_seconds(self, workspace, context, monkeypatch):
        saved, store = [], context["task_state_store"]
        store.set = lambda key, value: saved.append(len(value)) or Store.set(store, key, value)
        workspace()
        run(rows(*range(1000)), context)
        assert 5 <= len(saved) <= 8
        saved.clear()
        monkeypatch.setattr(record, "_SECONDS_BETWEEN_SAVES", 0.0)
        run(rows(*range(50)), context)
        assert len(saved) > 20

    def test_a_store_that_fails_does_not_stop_the_batch(self, workspace, context, log):
        def broken(*_):
            raise RuntimeError("API server is away")

        workspace()
        context["task_state_store"].set = broken
        assert run(rows(*range(300)), context)["counts"] == {"assigned": 300}
        assert "checkpoint could not be saved" in log.text

    def test_an_older_airflow_resumes_from_the_report(self, workspace, old_airflow, tmp_path):
        _, sandbox, posted = workspace(team(n30="server_error"))
        path = tmp_path / "r.jsonl"
        with pytest.raises(ServerError):
            run(rows(*range(60)), old_airflow, report_path=str(path))
        with path.open("a") as stream:
            stream.write('{"position": 31, "outc')  # killed within a line
        sandbox.workspace.scenarios.clear()
        assert run(rows(*range(60)), old_airflow, report_path=str(path))["done_before"] == 59
        assert len(posted) == 60
        assert len(read(path)) == 61  # both tries, every line whole
        assert run(rows(*range(60)), old_airflow, report_path=str(path))["done_before"] == 0
        assert len(posted) == 120

    def test_an_older_airflow_without_a_report_sends_everything_again(self, workspace, old_airflow):
        _, sandbox, posted = workspace(team(n30="server_error"))
        with pytest.raises(ServerError):
            run(rows(*range(60)), old_airflow)
        sandbox.workspace.scenarios.clear()
        assert run(rows(*range(60)), old_airflow)["done_before"] == 0
        assert len(posted) == 59 + 60

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.sampled_from(["fine", "server_error:3", "bad_request:1"]), min_size=1, max_size=30))
    def test_whatever_fails_the_tries_together_send_each_exactly_once(self, workspace, fates):
        scenarios = {f"n{index}": fate for index, fate in enumerate(fates) if fate != "fine"}
        _, _, posted = workspace(team(30, **scenarios))
        context = {"ti": Instance(), "task_state_store": Store()}
        for _ in range(2):
            try:
                run(rows(*range(len(fates))), context, max_consecutive_failures=1000)
            except (AirflowException, ServerError):
                continue
            break
        assert sorted(posted) == [(number(index), ADA) for index in range(len(fates))]


class Told(BaseException):
    pass


class TestBeingStopped:
    @pytest.mark.parametrize("how", ["exception", "on_kill"])
    def test_checkpoint_and_report_are_written_and_no_thread_stays(self, workspace, context, tmp_path, how):
        _, _, posted = workspace(per_minute=30)  # 30 at once, then a minute of waiting
        threads = threading.active_count()
        operator = SplashifyBulkAssignOperator(
            task_id="assign", assignments=rows(*range(60)), report_path=str(tmp_path / "r.jsonl")
        )

        def told(*_):
            operator.on_kill()
            if how == "exception":
                raise Told

        previous = signal.signal(signal.SIGALRM, told)
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        started = time.monotonic()
        try:
            with pytest.raises(Told if how == "exception" else AirflowException):
                operator.execute(context)
        finally:
            signal.signal(signal.SIGALRM, previous)
        assert time.monotonic() - started < 10
        assert threading.active_count() == threads
        assert len(posted) == 30
        assert len(read(tmp_path / "r.jsonl")) == 30
        assert len("".join(context["task_state_store"].values())) == 22 * 30

    def test_the_chunk_includes_what_is_in_flight(self, workspace, context, monkeypatch):
        store, lost = context["task_state_store"], []
        _, _, posted = workspace()
        monkeypatch.setattr(record, "_SECONDS_BETWEEN_SAVES", 1e9)
        write = batch.Batch._settle

        def settle(self, job, answer):
            lost.append(len(posted) - len("".join(store.values())) // 22)
            return write(self, job, answer)

        monkeypatch.setattr(batch.Batch, "_settle", settle)
        run(rows(*range(1000)), context)
        assert max(lost) <= record.CHUNK


def test_a_dag_may_use_it_classic_mapped_and_with_taskflow_inputs():
    with DAG("bulk", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)):

        @task
        def plan():
            return rows(1)

        fed = SplashifyBulkAssignOperator(task_id="fed", assignments=plan(), retries=2)
        mapped = SplashifyBulkAssignOperator.partial(task_id="mapped", on_invalid="skip").expand(
            assignments=[rows(1), rows(2)]
        )
    assert fed.upstream_task_ids == {"plan"}
    assert mapped.task_id == "mapped"
    with pytest.raises(TypeError, match="max_age"):
        SplashifyBulkAssignOperator.partial(task_id="other", max_age=1).expand(assignments=[[]])


def test_every_template_field_is_documented_as_one():
    for field in SplashifyBulkAssignOperator.template_fields:
        line = SplashifyBulkAssignOperator.__doc__.split(f":param {field}:")[1].split(":param ")[0]
        assert "(templated)" in line, field
