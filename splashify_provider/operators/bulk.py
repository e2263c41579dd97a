"""The operator for thousands of conversations in one task."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import AirflowSkipException

from splashify_provider.bulk.checkpoint import Checkpoint, retry_later
from splashify_provider.bulk.preflight import CheckedRows, check_limits, check_rows
from splashify_provider.bulk.progress import Progress
from splashify_provider.bulk.report import Report
from splashify_provider.bulk.sources import is_path, is_read_from, rows_of
from splashify_provider.exceptions import SplashifyConfigurationError
from splashify_provider.operators.base import SplashifyOperator, skip_if_too_old
from splashify_provider.redaction import plural, redact
from splashify_provider.retry_policy import DEFAULT_RETRY_POLICY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import timedelta

    from splashify_provider.bulk.assignment import Assignment
    from splashify_provider.exceptions import Outcome


class SplashifyBulkAssignOperator(SplashifyOperator):
    """Hand many customers' open conversations to their agents, in one task, as fast as the key allows.

    Everything is checked before anything is sent. Then each assignment has an outcome of its own: ``assigned``,
    ``conversation_not_found``, ``agent_not_found``, ``agent_inactive``, ``rejected``, ``invalid``, ``failed`` (a
    transient error) or ``not_attempted`` (the batch was stopped: the key is refused, or Splashify is down).

    A retry, or clearing the task after it failed, sends only what is not done yet (Airflow 3.3 and later; before, it
    sends everything again). Clearing a task that succeeded sends everything again, as does a new API key. Repeating is
    harmless in any case: assigning to the same agent twice changes nothing. On Airflow 3.3 and later the task's state
    store belongs to the operator, which clears it when a batch is complete; a batch ends, to be retried, where the
    store can't be read when it begins, or can't be written before 200 assignments would have to be repeated.

    XCom gets ``total``, ``counts`` by outcome, ``done_before`` (by an earlier try), ``duplicates``, ``not_done`` (the
    positions, from 1, of the rows whose conversations are not with their agents, as ``[first, last]`` of each run of
    them; all other rows are assigned), ``refused_agents`` (how often, by agent and outcome) and the first 100
    ``failures`` with masked numbers; also when the task fails because rows are not done.

    :param assignments: A list of mappings with ``user_phone_number`` and ``agent_email`` (what else they have is
        ignored), another task's result, the same as JSON text, or the path of a file: JSON Lines, or CSV with a header,
        on anything ``ObjectStoragePath`` understands. At most a million. A number that comes twice with one agent is
        sent once; with two agents, the task fails before anything is sent. (templated)
    :param splashify_conn_id: The Airflow connection. (templated)
    :param report_path: Where to add one JSON line for every row as it goes: ``position`` (from 1),
        ``user_phone_number``, ``agent_email``, ``outcome`` (or ``duplicate``, or ``done_before`` by an earlier try),
        ``message`` and ``time``. It is for people; nothing reads it. Every try adds a line for every row, so a
        position's last line counts. Anything ``ObjectStoragePath`` understands; give each run (and each map index) its
        own, as in ``/reports/{{ run_id }}.jsonl``, since nothing that is there is ever replaced. (templated)
    :param report_phone_numbers: ``"masked"`` to the last four digits, or ``"full"``.
    :param on_conversation_not_found: ``"fail"``, or ``"skip"`` where customers without an open conversation
        are normal.
    :param on_invalid: ``"fail"`` before anything is sent if any row is invalid, or ``"skip"`` to go on without those.
    :param fail_on_partial_error: Whether the task fails if some assignments could not be made. If False, it fails
        only if none could, or if the batch was stopped.
    :param max_in_flight: How many requests may be waiting for their answer at once, 1 to 64. With 1, a task that is
        told to stop waits for the answer under way first, for up to the connection's ``timeout``, unless Airflow
        kills it before.
    :param max_consecutive_failures: After so many failures in a row the rest is not attempted: Splashify is down, or
        the address is wrong. 400s that concern a single row (no such agent, no conversation) don't count.
    :param max_run_age: Skip if the run was due longer ago than this when a try begins, or fail if an earlier try has
        sent a part; see :class:`SplashifyAssignOperator`.
    :param dry_run: Check everything and log it, send nothing.
    :param retry_policy: Airflow 3.3 and later; waits as long as Splashify asks, unless given.
    """

    template_fields: Sequence[str] = ("assignments", "splashify_conn_id", "report_path")

    def __init__(
        self,
        *,
        assignments: Iterable[Mapping[str, Any]] | str,
        splashify_conn_id: str = "splashify_default",
        report_path: str | None = None,
        report_phone_numbers: Literal["masked", "full"] = "masked",
        on_conversation_not_found: Literal["fail", "skip"] = "fail",
        on_invalid: Literal["fail", "skip"] = "fail",
        fail_on_partial_error: bool = True,
        max_in_flight: int = 8,
        max_consecutive_failures: int = 10,
        max_run_age: timedelta | None = None,
        dry_run: bool = False,
        retry_policy: Any = DEFAULT_RETRY_POLICY,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            splashify_conn_id=splashify_conn_id,
            on_conversation_not_found=on_conversation_not_found,
            max_run_age=max_run_age,
            dry_run=dry_run,
            retry_policy=retry_policy,
            **kwargs,
        )
        self.assignments = assignments
        self.report_path = report_path
        self.report_phone_numbers = report_phone_numbers
        self.on_invalid = on_invalid
        self.fail_on_partial_error = fail_on_partial_error
        self.max_in_flight = max_in_flight
        self.max_consecutive_failures = max_consecutive_failures

    _is_killed = False
    _parent: int | None = None

    def on_kill(self) -> None:
        """Stop with checkpoint and report written. Airflow 3 calls this on SIGTERM, and then waits."""
        self._is_killed = True

    def check_arguments(self) -> None:
        """Refuse arguments that are wrong.

        :raises SplashifyConfigurationError: Naming the argument.
        """
        super().check_arguments()
        self.check_choice("on_invalid", "fail", "skip")
        self.check_choice("report_phone_numbers", "masked", "full")
        if not isinstance(self.fail_on_partial_error, bool):
            raise SplashifyConfigurationError(
                f"fail_on_partial_error must be True or False, not {redact(repr(self.fail_on_partial_error))}."
            )
        check_limits(self.max_in_flight, self.max_consecutive_failures)
        if self.report_path is None:
            return
        if not (isinstance(self.report_path, str) or is_path(self.report_path)):
            raise SplashifyConfigurationError(f"report_path must be a path, not {type(self.report_path).__name__}.")
        if str(self.report_path).strip() in ("", "None", "null"):
            raise SplashifyConfigurationError(
                f"report_path is the text {redact(self.report_path)!r}.\nIf it is a template, check what it refers to."
            )
        if is_read_from(self.assignments, self.report_path):
            raise SplashifyConfigurationError(
                "report_path is the file of assignments itself, which the report would be written into. Nothing was "
                "sent.\nGive the report a path of its own."
            )

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Check the rows, then send them.

        :param context: Airflow's task context.
        :return: The summary described above.
        :raises AirflowSkipException: If the run is too old.
        :raises AirflowFailException: If something is not done and the error is permanent. The error is its cause.
        :raises SplashifyError: If something is not done and the error is transient: Airflow's retries apply.
        :raises AirflowException: If the task is told to stop, or can't keep its checkpoint or report.
        """
        self._parent = os.getppid()
        with self.airflow_errors():
            self.check_arguments()
            checkpoint = self._checkpoint(context)
            self._skip_if_too_old(context, checkpoint)
            checked = check_rows(self.hook.client, rows_of(self.assignments), self._stop_if_told)
            checked.refuse_bad_rows(self.log, skip_invalid=self.on_invalid == "skip")
            progress = Progress(checked, self.hook.client.limiter, self.log)
            to_send, done_before = self._sort(checked, checkpoint, progress)
            self._log_counts(checked, len(to_send), len(done_before))
            if self.is_dry_run:
                return progress.summary()
            checkpoint.begin(to_send)
            report = Report(self.report_path, self.report_phone_numbers) if self.report_path else None
            try:
                if report:
                    report.write_unsent(checked, done_before)
                self._send(to_send, checkpoint, progress, report)
            finally:
                checkpoint.save()
                unwritten = report.close() if report else None
                progress.log_table()
            return self._end(context, checkpoint, progress, unwritten)

    def _checkpoint(self, context: Mapping[str, Any]) -> Checkpoint:
        client = self.hook.client
        # Another address is another workspace, and its agents and customers are others.
        secret = client.fingerprint(f"{context.get('run_id')} {client.settings.budget.name}")
        store = None if self.is_dry_run else context.get("task_state_store")
        return Checkpoint(store, secret, self.max_in_flight)

    def _skip_if_too_old(self, context: Mapping[str, Any], checkpoint: Checkpoint) -> None:
        try:
            skip_if_too_old(context, self.max_run_age)
        except AirflowSkipException as skip:
            if checkpoint.is_empty:
                raise
            raise SplashifyConfigurationError(
                f"An earlier try has sent a part of the batch; the rest is not sent.\n{skip}"
            ) from None

    def _sort(
        self, checked: CheckedRows, checkpoint: Checkpoint, progress: Progress
    ) -> tuple[list[Assignment], list[Assignment]]:
        """Return what is to be sent, and what an earlier try has done."""
        to_send, done_before = [], []
        for item in checked.assignments.values():
            outcome = checkpoint.outcome_of(item)
            if outcome and outcome in self._outcomes_that_are_done:
                progress.add_done_before(item, outcome)
                done_before.append(item)
            else:
                to_send.append(item)
        return to_send, done_before

    @property
    def _outcomes_that_are_done(self) -> tuple[Outcome, ...]:
        return ("assigned", "conversation_not_found") if self.on_conversation_not_found == "skip" else ("assigned",)

    def _log_counts(self, checked: CheckedRows, to_send: int, done_before: int) -> None:
        counts = f"{plural(checked.total, 'row')}: {to_send:,} to send, {done_before:,} done by an earlier try"
        counts += f", {plural(len(checked.duplicates), 'duplicate')}, {len(checked.invalid):,} invalid"
        self.log.info("%s; at most %s a minute.", counts, f"{self.hook.client.limiter.requests_per_minute:,}")
        if self.is_dry_run:
            self.log.info("Dry run, nothing was sent.")
        elif not checked.total:
            self.log.warning("There is nothing to assign: the list is empty.")

    def _send(
        self, to_send: list[Assignment], checkpoint: Checkpoint, progress: Progress, report: Report | None
    ) -> None:
        from splashify_provider.bulk.sender import assign_many  # not earlier: parsing a DAG loads no HTTP library

        def tick() -> None:
            self._stop_if_told()
            checkpoint.save_if_due()
            progress.log_if_due()

        done = self._outcomes_that_are_done
        outcomes = assign_many(
            self.hook.client,
            to_send,
            max_in_flight=self.max_in_flight,
            max_consecutive_failures=self.max_consecutive_failures,
            on_tick=tick,
        )
        with closing(outcomes):  # an exception must not leave threads behind
            for outcome in outcomes:
                is_done = outcome.outcome in done
                progress.add(outcome, is_done=is_done)
                if is_done:
                    checkpoint.add(outcome)
                if report:
                    report.write(outcome, outcome.outcome, outcome.message)

    def _stop_if_told(self) -> None:
        remedy = "A retry, or clearing this task, sends what is not done."
        if self._is_killed:
            raise retry_later("The task was told to stop (SIGTERM).", remedy)
        if os.getppid() != self._parent:  # its worker was killed, and another one may have begun the next try
            raise retry_later("The process that started this task is gone, so the batch ends here.", remedy)

    def _end(
        self, context: Mapping[str, Any], checkpoint: Checkpoint, progress: Progress, unwritten: Exception | None
    ) -> dict[str, Any]:
        """Fail, or forget what was done and return the summary."""
        if unwritten:
            self.log.error("The report %s could not be written (%s).", self.report_path, redact(unwritten))
        next_try = (
            "sends only what is not done." if checkpoint.is_kept else "sends everything again, which is harmless."
        )
        error = progress.error(next_try + (f" Every row's outcome: {self.report_path}" if self.report_path else ""))
        if error and progress.done and not progress.stopped_by and not self.fail_on_partial_error:
            self.log.warning("%s", error.reason)
            self.log.warning("The task succeeds all the same, since fail_on_partial_error is False.")
        elif error:
            self._push(context, progress.summary())
            raise error
        if unwritten:
            raise retry_later(
                f"The batch is complete, but the report {self.report_path} could not be written ({redact(unwritten)}).",
                "A retry writes it.",
            )
        checkpoint.clear()
        return progress.summary()

    def _push(self, context: Mapping[str, Any], summary: dict[str, Any]) -> None:
        """Push the summary of a task that fails to XCom: what it returns would be lost."""
        ti = context.get("ti")
        if ti is None or not self.do_xcom_push:
            return
        try:
            ti.xcom_push(key="return_value", value=summary)
        except Exception as error:  # must not hide why the task fails
            self.log.warning("The summary could not be pushed to XCom (%s).", redact(error))
