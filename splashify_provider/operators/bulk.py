"""The operator for thousands of conversations in one task."""

from __future__ import annotations

import copy
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from airflow.providers.common.compat.sdk import AirflowException, AirflowSkipException

from splashify_provider.exceptions import SplashifyConfigurationError, SplashifyError
from splashify_provider.operators.base import SplashifyOperator
from splashify_provider.redaction import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from splashify_provider.bulk.checked import CheckedRows
    from splashify_provider.bulk.progress import Progress
    from splashify_provider.bulk.record import Checkpoint, Earlier
    from splashify_provider.bulk.report import Report

_MOST_PROBLEMS_IN_ERROR = 20


class SplashifyBulkAssignOperator(SplashifyOperator):
    """Hand many customers' open conversations to their agents, in one task, as fast as the key allows.

    Everything is checked before anything is sent. Then each assignment has an outcome of its own: ``assigned``,
    ``conversation_not_found``, ``agent_not_found``, ``agent_inactive``, ``rejected``, ``invalid``, ``failed``
    (waiting may heal it) or ``not_attempted`` (the batch was stopped: the key is refused, or Splashify is down).

    A retry, or clearing the task after it failed, sends only what is not done yet (Airflow 3.3 and later; before,
    if there is a ``report_path``). Clearing a task that succeeded sends everything again, as does a new API key.
    Repeating is harmless in any case: assigning to the same agent twice changes nothing. On Airflow 3.3 and later the
    task's state store belongs to the operator, which clears it when a batch is complete.

    XCom gets ``total``, ``counts`` by outcome, ``done_before`` (by an earlier try), ``duplicates``, and the first 100
    ``failures`` with masked numbers, also when the task fails; not when Airflow stops it, where the log has them.

    :param assignments: A list of mappings with ``user_phone_number`` and ``agent_email`` (what else they have is
        ignored), another task's result, the same as JSON text, or the path of a file that is read as it is needed: JSON
        Lines, or CSV with a header, on anything ``ObjectStoragePath`` understands. A number that comes twice with one
        agent is sent once; with two agents, the task fails before anything is sent. (templated)
    :param splashify_conn_id: The Airflow connection. (templated)
    :param report_path: Where to write one JSON line for every row as it goes: ``position`` (from 1),
        ``user_phone_number``, ``agent_email``, ``outcome`` (or ``duplicate``, or ``done_before`` by an earlier try),
        ``message``, ``time``, and mostly a ``key``, a hash by which a retry knows it again. Lines without a position:
        ``finished`` at the end of a complete batch, and ``outdated`` for each number that a retry gives to somebody
        else. A retry adds to what is there, and a position's last line counts; a new run replaces it. Anything
        ``ObjectStoragePath`` understands; give each run (and each map index) its own, as in
        ``/reports/{{ run_id }}.jsonl``. (templated)
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
        the address is wrong. Answers about one row (no such agent, no conversation, any other 400) don't count.
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
        report_path: str | None = None,
        report_phone_numbers: Literal["masked", "full"] = "masked",
        on_invalid: Literal["fail", "skip"] = "fail",
        fail_on_partial_error: bool = True,
        max_in_flight: int = 8,
        max_consecutive_failures: int = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.assignments = assignments
        self.report_path = report_path
        self.report_phone_numbers = report_phone_numbers
        self.on_invalid = on_invalid
        self.fail_on_partial_error = fail_on_partial_error
        self.max_in_flight = max_in_flight
        self.max_consecutive_failures = max_consecutive_failures

    def on_kill(self) -> None:
        """Stop with checkpoint and report written. Airflow 3 calls this on SIGTERM, and then waits."""
        self._is_killed = True

    _is_killed = False

    def _stop_if_killed(self) -> None:
        if self._is_killed:
            raise AirflowException("The task was told to stop (SIGTERM).")

    def _check_arguments(self) -> None:
        from splashify_provider.hooks.batch import check_limits

        super()._check_arguments()
        self._check_choice("on_invalid", "fail", "skip")
        self._check_choice("report_phone_numbers", "masked", "full")
        if not isinstance(self.fail_on_partial_error, bool):
            raise SplashifyConfigurationError(
                f"fail_on_partial_error must be True or False, not {self.fail_on_partial_error!r}."
            )
        if str(self.report_path).strip() in ("None", "null") and self.report_path is not None:
            raise SplashifyConfigurationError(
                f"report_path is the text {self.report_path!r}. If it is a template, check what it refers to."
            )
        check_limits(self.max_in_flight, self.max_consecutive_failures)

    def _run(self, context: Mapping[str, Any]) -> dict[str, Any]:
        # Imported here so that parsing a DAG loads no HTTP library.
        from splashify_provider.bulk.checked import CheckedRows
        from splashify_provider.bulk.progress import Progress
        from splashify_provider.bulk.sources import is_read_from, rows_of

        rows = rows_of(self.assignments)
        if self.report_path and is_read_from(self.assignments, self.report_path):
            raise SplashifyConfigurationError(
                "report_path is the file of assignments itself, which the report would replace. Nothing was sent."
            )
        if self.is_dry_run:
            return self._rehearse(CheckedRows(rows, self.hook, lambda _: False, self._stop_if_killed))
        earlier, checkpoint, report = self._records(context)
        checked = CheckedRows(rows, self.hook, earlier.is_done, self._stop_if_killed)
        self._check(checked)
        if checkpoint:
            checkpoint.begin(earlier.outdated)
        if report:
            report.open(append=checked.done > 0, outdated=earlier.outdated)
        progress = Progress(checked.to_send, self.hook.pacer, self.log)
        self.log.info(
            "%s rows: %s to send, %s done by an earlier try, %s duplicates, %s invalid; at most %s a minute.",
            *(
                f"{count:,}"
                for count in (checked.total, checked.to_send, checked.done, checked.duplicates, checked.invalid)
            ),
            f"{self.hook.pacer.requests_per_minute:,}",
        )
        if not earlier.is_empty and not checked.done and not earlier.outdated:
            self.log.warning("What earlier tries have done is not in this list, or was done with another API key.")
        if not checked.total:
            self.log.warning("There is nothing to assign: the list is empty.")
        try:
            self._send(checked, progress, checkpoint, report)
            error = self._error(checked, progress)
            if report and not error:
                report.finish()
        finally:
            if checkpoint:
                checkpoint.save()
            progress.log_table(checked.done)
            if unwritten := report and report.close():
                self.log.error("The report %s could not be written (%s).", self.report_path, quote(unwritten))
        summary = _summary(checked, progress.counts, progress.failures)
        if error:
            self._push(context, summary)
            raise error
        if unwritten:
            raise AirflowException(
                f"Everything is done, but the report {self.report_path} could not be written ({quote(unwritten)}). "
                "A retry writes it."
            )
        if checkpoint:
            checkpoint.forget()
        return summary

    def _records(self, context: Mapping[str, Any]) -> tuple[Earlier, Checkpoint | None, Report | None]:
        """Find what earlier tries have left, and where this one will note what it does."""
        from splashify_provider.bulk.record import Checkpoint, Earlier
        from splashify_provider.bulk.report import Report

        secret = self.hook.fingerprint(_identity(context))
        earlier = Earlier(secret, self._outcomes_that_are_done)
        store = context.get("task_state_store")
        checkpoint = Checkpoint(store, earlier, secret) if store is not None else None
        report = Report(self.report_path, self.report_phone_numbers, secret) if self.report_path else None
        if report and not checkpoint:
            report.read(earlier)
        return earlier, checkpoint, report

    def _when_too_old(self, context: Mapping[str, Any], skip: AirflowSkipException) -> NoReturn:
        earlier, _, _ = self._records(context)
        if earlier.is_empty:
            raise skip
        raise SplashifyConfigurationError(f"An earlier try has sent a part of the batch; the rest is not sent. {skip}")

    def _push(self, context: Mapping[str, Any], summary: dict[str, Any]) -> None:
        """Give XCom the summary of a task that fails: what it returns would be lost."""
        ti = context.get("ti")
        if ti is None or not self.do_xcom_push:
            return
        try:
            ti.xcom_push(key="return_value", value=summary)
        except Exception as error:  # must not hide why the task fails
            self.log.warning("The summary could not be pushed to XCom (%s).", quote(error))

    @property
    def _outcomes_that_are_done(self) -> frozenset[str]:
        skips = self.on_conversation_not_found == "skip"
        return frozenset({"assigned", "conversation_not_found"} if skips else {"assigned"})

    def _check(self, checked: CheckedRows) -> None:
        """Refuse the batch for its bad rows, all of them at once."""
        is_skipped = self.on_invalid == "skip"
        for problem in checked.conflicting_rows:
            self.log.error("%s", problem)
        for problem in checked.invalid_rows:
            (self.log.warning if is_skipped else self.log.error)("%s", problem)
        bad, problems = checked.conflicts, checked.conflicting_rows
        if not is_skipped:
            bad, problems = bad + checked.invalid, problems + checked.invalid_rows
        if not bad:
            return
        shown = problems[:_MOST_PROBLEMS_IN_ERROR]
        more = f" … and {bad - len(shown):,} more; the log has the first thousand." if bad > len(shown) else ""
        advice = "on_invalid='skip' goes on without invalid rows"
        if checked.conflicts:
            advice += ", but not where one number is for two agents"
        raise SplashifyConfigurationError(
            f"{bad:,} of {checked.total:,} rows can't be sent, so nothing was sent. Correct them, then clear this task "
            f"({advice}). {' '.join(shown)}{more}"
        )

    def _send(
        self,
        checked: CheckedRows,
        progress: Progress,
        checkpoint: Checkpoint | None,
        report: Report | None,
    ) -> None:
        def tick() -> None:
            progress.log_if_due()
            if checkpoint:
                checkpoint.save_if_due()
            self._stop_if_killed()

        done = self._outcomes_that_are_done
        outcomes = self.hook.assign_many(
            checked.items(*((report.write_done, report.write_duplicate) if report else (_ignore, _ignore))),
            max_in_flight=self.max_in_flight,
            max_consecutive_failures=self.max_consecutive_failures,
            on_idle=tick,
        )
        with closing(outcomes):  # an exception must not leave threads behind
            for outcome in outcomes:
                progress.add(outcome, is_done=outcome.outcome in done)
                if checkpoint and outcome.outcome in done:
                    checkpoint.add(outcome, self.max_in_flight)
                if report:
                    report.write(outcome)

    def _error(self, checked: CheckedRows, progress: Progress) -> SplashifyError | None:
        """Decide whether the batch has failed, and whether a retry may heal it."""
        error = progress.stopped_by or progress.last_failure or progress.last_rejection
        done = sum(progress.counts[outcome] for outcome in self._outcomes_that_are_done) + checked.done
        if error is None:
            return None
        what = ", ".join(f"{count:,} {outcome}" for outcome, count in progress.undone.most_common())
        text = f"{progress.undone.total():,} of {checked.to_send + checked.done:,} assignments are not done ({what})"
        if done and not progress.stopped_by and not self.fail_on_partial_error:
            self.log.warning("%s. The task succeeds all the same, since fail_on_partial_error is False.", text)
            return None
        error = copy.copy(error)
        error.message = (
            text
            + (", and the batch was stopped" if progress.stopped_by else "")
            + f". {error.message}"
            + (f" All of them: {self.report_path}" if self.report_path else "")
        )
        return error

    def _rehearse(self, checked: CheckedRows) -> dict[str, Any]:
        self._check(checked)
        self.log.info(
            "Dry run, nothing was sent: would send %s assignments; %s duplicates, %s invalid.",
            *(f"{count:,}" for count in (checked.to_send, checked.duplicates, checked.invalid)),
        )
        return _summary(checked, {"invalid": checked.invalid} if checked.invalid else {}, [])


def _ignore(*_: object) -> None:
    pass


def _identity(context: Mapping[str, Any]) -> str:
    """Name the task instance, whichever try it is."""
    ti = context.get("ti")
    return "/".join(str(getattr(ti, part, "")) for part in ("dag_id", "run_id", "task_id", "map_index"))


def _summary(checked: CheckedRows, counts: Mapping[str, int], failures: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "total": checked.total,
        "counts": dict(counts),
        "done_before": checked.done,
        "duplicates": checked.duplicates,
        "failures": failures,
    }
