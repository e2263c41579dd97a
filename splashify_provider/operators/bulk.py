"""The operator for thousands of conversations in one task."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import AirflowSkipException

from splashify_provider.bulk.assignment import label_of
from splashify_provider.bulk.checkpoint import Checkpoint
from splashify_provider.bulk.preflight import CheckedRows, check_limits, check_rows
from splashify_provider.bulk.progress import Progress
from splashify_provider.bulk.report import Report
from splashify_provider.bulk.sources import is_path, is_read_from, rows_of
from splashify_provider.exceptions import SplashifyConfigurationError, SplashifyError
from splashify_provider.operators.base import SplashifyOperator, check_choice, map_index_of, skip_if_too_old
from splashify_provider.redaction import plural, redact
from splashify_provider.retry_policy import DEFAULT_RETRY_POLICY
from splashify_provider.task_errors import retry_later

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import timedelta

    from splashify_provider.bulk.assignment import Assignment, AssignmentOutcome
    from splashify_provider.exceptions import Outcome


class SplashifyBulkAssignOperator(SplashifyOperator):
    """Hand many customers' open conversations to their agents, in one task, as fast as the key allows.

    Everything is checked before anything is sent. Then each row has an outcome of its own: ``assigned``, ``released``,
    ``conversation_not_found``, ``agent_not_found``, ``agent_inactive``, ``rejected``, ``invalid``, ``failed`` (a
    transient error) or ``not_attempted`` (the batch was stopped: the key is refused, or Splashify is down).

    Each agent's first request goes alone. Who is refused (not found, inactive) is not asked again in the batch: their
    other conversations go to the next in line, or fail with that cause, without a request.

    A retry, or clearing the task after it failed, sends only what is not done yet (Airflow 3.3 and later; before, it
    sends everything again). Clearing a task that succeeded sends everything again, as does a new API key. Repeating is
    harmless in any case: assigning to the same agent twice changes nothing. On Airflow 3.3 and later the task's state
    store belongs to the operator, which clears it when a batch is complete; a batch ends, to be retried, where the
    store can't be read when it begins, or can't be written before 200 assignments would have to be repeated.

    XCom gets a summary without whole phone numbers, also while the batch runs (at least every 200 assignments) and when
    the task fails once its rows are read. Positions count from 1, releases behind assignments, and are given as
    ``[first, last]`` of each run of them:

    * ``total``: how many rows there are; ``duplicates``: how many say what an earlier one says;
    * ``counts``: by outcome, of this try; ``done_before``: by outcome, what earlier tries have done;
    * ``undone``: how many rows make the task fail, duplicates aside. Invalid ones count unless
      ``on_invalid="skip"``, and customers without a conversation unless ``on_conversation_not_found="skip"``;
    * ``not_done``: positions whose conversations are not with one of their agents (or not released), for whatever
      reason; all others are;
    * ``elsewhere``: by agent, positions whose conversations are with them as the next in line;
    * ``refused_agents``: by agent whom Splashify refused in this try, ``cause`` (``agent_inactive`` or
      ``agent_not_found``), ``elsewhere`` and ``failed``: how many conversations the next in line have got, and how
      many nobody;
    * ``failures``: the first 100, with masked numbers; ``seconds``: how long it took; ``ended_at``: when, in UTC;
    * ``plan_id``, as it was given, and ``map_index`` if the task is mapped.

    :param assignments: A list of mappings with ``user_phone_number``, ``agent_email`` and, if wanted,
        ``fallback_agents``: who is next in line, at most ten addresses, as a list or as text with commas between them
        (what else they have is ignored), another task's result, the same as JSON text, or the path of a file: JSON
        Lines, or CSV with a header, on anything ``ObjectStoragePath`` understands. At most a million. A number that
        comes twice with one agent is sent once; with two agents, the task fails before anything is sent. (templated)
    :param releases: Conversations to take away from their agents, back to the unassigned: phone numbers, or mappings
        with ``user_phone_number``, as a list, as JSON text or as the path of a file. May stand without
        ``assignments``. (templated)
    :param plan_id: Comes back in the summary, to tell whose result it is. What was done with another id is sent again.
        (templated)
    :param splashify_conn_id: The Airflow connection. (templated)
    :param report_path: Where to add one JSON line for every row as it goes: ``position`` (from 1),
        ``user_phone_number``, ``agent_email``, ``outcome`` (or ``duplicate``, or ``done_before`` by an earlier try),
        ``message`` and ``time``. It is for people; nothing reads it. Every try adds a line for every row, so a
        position's last line counts. Anything ``ObjectStoragePath`` understands; give each run (and each map index) its
        own, as in ``/reports/{{ run_id }}.jsonl``, since nothing that is there is ever replaced. (templated)
    :param report_phone_numbers: ``"masked"`` to the last four digits, or ``"full"``.
    :param on_agent_refused: ``"next"``: where Splashify refuses an agent, the next in line gets the conversation.
        ``"fail"``: it fails, and ``fallback_agents`` are ignored.
    :param on_conversation_not_found: ``"fail"``, or ``"skip"`` where customers without an open conversation
        are normal.
    :param on_invalid: ``"fail"`` before anything is sent if any row is invalid, ``"skip"`` to go on without those, or
        ``"continue"`` to go on without them and fail at the end.
    :param fail_on_partial_error: Whether the task fails if some assignments could not be made. If False, it fails
        only if none could, or if the batch was stopped.
    :param max_in_flight: How many requests may be waiting for their answer at once, 1 to 64. With 1, a task that is
        told to stop waits for the answer under way first, for up to the connection's ``timeout``, unless Airflow
        kills it before.
    :param max_consecutive_failures: After so many failures in a row the rest is not attempted: Splashify is down, or
        the address is wrong. 400s that concern a single row (no such agent, no conversation) don't count.
    :param max_run_age: Skip if the run was due longer ago than this when a try begins, or fail if an earlier try has
        sent a part; see :class:`SplashifyAssignOperator`.
    :param dry_run: Check everything and log it, send nothing. A bool, or the text "True" or "False". (templated)
    :param retry_policy: Airflow 3.3 and later; waits as long as Splashify asks, unless given.
    """

    template_fields: Sequence[str] = (
        "assignments",
        "releases",
        "plan_id",
        "splashify_conn_id",
        "report_path",
        "is_dry_run",
    )

    def __init__(
        self,
        *,
        assignments: Iterable[Mapping[str, Any]] | str | None = None,
        releases: Iterable[str | Mapping[str, Any]] | str | None = None,
        plan_id: str = "",
        splashify_conn_id: str = "splashify_default",
        report_path: str | None = None,
        report_phone_numbers: Literal["masked", "full"] = "masked",
        on_agent_refused: Literal["next", "fail"] = "next",
        on_conversation_not_found: Literal["fail", "skip"] = "fail",
        on_invalid: Literal["fail", "skip", "continue"] = "fail",
        fail_on_partial_error: bool = True,
        max_in_flight: int = 8,
        max_consecutive_failures: int = 10,
        max_run_age: timedelta | None = None,
        dry_run: bool | str = False,
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
        self.releases = releases
        self.plan_id = plan_id
        self.report_path = report_path
        self.report_phone_numbers = report_phone_numbers
        self.on_agent_refused = on_agent_refused
        self.on_invalid = on_invalid
        self.fail_on_partial_error = fail_on_partial_error
        self.max_in_flight = max_in_flight
        self.max_consecutive_failures = max_consecutive_failures

    _is_killed = False
    _has_failed_to_push = False
    _parent: int | None = None

    def on_kill(self) -> None:
        """Stop with checkpoint and report written. Airflow 3 calls this on SIGTERM, and then waits."""
        self._is_killed = True

    def check_arguments(self) -> None:
        """Refuse arguments that are wrong.

        :raises SplashifyConfigurationError: Naming the argument.
        """
        super().check_arguments()
        check_choice("on_agent_refused", self.on_agent_refused, "next", "fail")
        check_choice("on_invalid", self.on_invalid, "fail", "skip", "continue")
        check_choice("report_phone_numbers", self.report_phone_numbers, "masked", "full")
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
        self._label(context)
        with self.airflow_errors():
            self.check_arguments()
            checkpoint = self._checkpoint(context)
            checked = check_rows(
                self.hook.client,
                self._moves(),
                self._stop_if_told,
                releases=self._releases(),
                with_fallbacks=self.on_agent_refused == "next",
            )
            progress = Progress(checked, self.hook.client.limiter, self.log, counts_invalid=self.on_invalid != "skip")
            try:
                self._carry_out(context, checked, checkpoint, progress)
            except AirflowSkipException:
                raise
            except BaseException:  # what a task that fails returns would be lost
                self._push(context, progress)
                raise
            return self._summary(context, progress)

    def _carry_out(
        self, context: Mapping[str, Any], checked: CheckedRows, checkpoint: Checkpoint, progress: Progress
    ) -> None:
        to_send, done_before = self._sort(checked, checkpoint, progress)
        self._skip_if_too_old(context, checkpoint)
        checked.refuse_bad_rows(self.log, self.on_invalid)
        self._log_counts(checked, len(to_send), len(done_before))
        if self.is_dry_run:
            self._end(progress, "checks everything again.")
            return
        checkpoint.begin(to_send)
        report = Report(self.report_path, self.report_phone_numbers) if self.report_path else None
        try:
            if report:
                report.write_unsent(checked, done_before)
            self._push(context, progress)  # what an earlier try pushed is gone
            self._send(context, to_send, checkpoint, progress, report)
        finally:
            checkpoint.save()
            unwritten = report.close() if report else None
            progress.log_table()
        if unwritten:
            self.log.error("The report %s could not be written (%s).", self.report_path, redact(unwritten))
        next_try = (
            "sends only what is not done." if checkpoint.is_kept else "sends everything again, which is harmless."
        )
        self._end(progress, next_try + (f" Every row's outcome: {self.report_path}" if self.report_path else ""))
        if unwritten:
            raise retry_later(
                f"The batch is complete, but the report {self.report_path} could not be written ({redact(unwritten)}).",
                "A retry writes it.",
            )
        checkpoint.clear()

    def _moves(self) -> Iterable[Any]:
        has_releases_only = self.assignments is None and self.releases is not None
        return () if has_releases_only else rows_of(self.assignments)

    def _releases(self) -> Iterable[Any]:
        return () if self.releases is None else rows_of(self.releases, "releases", ("user_phone_number",))

    def _label(self, context: Mapping[str, Any]) -> None:
        """Label a mapped task by what it is to do, as far as that is known before a file is read."""
        if map_index_of(context) < 0:
            return
        try:
            moves, releases = self._moves(), self._releases()
        except SplashifyError:  # which fails the task later
            return
        if isinstance(moves, Sequence) and isinstance(releases, Sequence):
            self.label_mapped_task(context, label_of(moves, releases))

    def _checkpoint(self, context: Mapping[str, Any]) -> Checkpoint:
        client = self.hook.client
        # Another address is another workspace, and its agents and customers are others. Another plan was made from what
        # the table said by then: whoever had a conversation by an earlier one may not have it any more.
        secret = client.fingerprint(f"{context.get('run_id')} {client.settings.budget.name} {self.plan_id}")
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
    ) -> tuple[list[Assignment], list[AssignmentOutcome]]:
        """Return what is to be sent, and what an earlier try has done."""
        to_send, done_before = [], []
        for item in checked.assignments.values():
            outcome = checkpoint.done_before(item)
            if outcome and outcome.outcome in self._outcomes_that_are_done:
                progress.add_done_before(outcome)
                done_before.append(outcome)
            else:
                to_send.append(item)
        return to_send, done_before

    @property
    def _outcomes_that_are_done(self) -> tuple[Outcome, ...]:
        skipped: tuple[Outcome, ...] = ("conversation_not_found",) if self.on_conversation_not_found == "skip" else ()
        return ("assigned", "released", *skipped)

    def _log_counts(self, checked: CheckedRows, to_send: int, done_before: int) -> None:
        counts = f"{plural(checked.total, 'row')}: {to_send:,} to send, {done_before:,} done by an earlier try"
        counts += f", {plural(len(checked.duplicates), 'duplicate')}, {len(checked.invalid):,} invalid"
        self.log.info("%s; at most %s a minute.", counts, f"{self.hook.client.limiter.requests_per_minute:,}")
        if self.is_dry_run:
            self.log.info("Dry run, nothing was sent.")
        elif not checked.total:
            self.log.warning("There is nothing to assign: the list is empty.")

    def _send(
        self,
        context: Mapping[str, Any],
        to_send: list[Assignment],
        checkpoint: Checkpoint,
        progress: Progress,
        report: Report | None,
    ) -> None:
        from splashify_provider.bulk.sender import assign_many  # not earlier: parsing a DAG loads no HTTP library

        def tick() -> None:
            self._stop_if_told()
            if checkpoint.save_if_due():
                self._push(context, progress)
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

    def _end(self, progress: Progress, next_try: str) -> None:
        """Fail if something is not done, unless a part is enough."""
        error = progress.error(next_try)
        if error is None:
            return
        if progress.stopped_by or not progress.done or self.fail_on_partial_error:
            raise error
        self.log.warning("%s", error.reason)
        self.log.warning("The task succeeds all the same, since fail_on_partial_error is False.")

    def _summary(self, context: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        now = datetime.now(timezone.utc).isoformat()
        summary = {**progress.summary(), "ended_at": now, "plan_id": self.plan_id}
        map_index = map_index_of(context)
        return {**summary, "map_index": map_index} if map_index >= 0 else summary

    def _push(self, context: Mapping[str, Any], progress: Progress) -> None:
        """Push what is known to XCom, as it would be returned: a worker that is killed returns nothing."""
        ti = context.get("ti")
        if ti is None or not self.do_xcom_push:
            return
        try:
            ti.xcom_push(key="return_value", value=self._summary(context, progress))
        except Exception as error:  # must not hide why the task fails
            if not self._has_failed_to_push:
                self.log.warning("The summary could not be pushed to XCom (%s).", redact(error))
            self._has_failed_to_push = True


class SplashifyPlannedAssignOperator(SplashifyBulkAssignOperator):
    """Carry out the chunks of a plan: ``.partial(...).expand_kwargs(plan.output)``.

    It is the bulk operator, only that its rows come from tables: Airflow would render whatever looks like a template in
    them, and show or send what that gives.
    """

    template_fields: Sequence[str] = ("splashify_conn_id", "report_path", "is_dry_run")
