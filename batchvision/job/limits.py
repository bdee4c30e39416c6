"""The sections of a job file about the run: delivery, limits, output. Each section validates itself alone."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta, tzinfo
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import BeforeValidator

from batchvision.errors import PAID_FAILURES, ROW_FAULTS
from batchvision.job.values import (
    Amount,
    Count,
    Flag,
    LocalTime,
    Money,
    RowLimit,
    RowPart,
    RowShare,
    Section,
    Text,
    kinds,
)
from batchvision.records import Lane


class DeliverySection(Section):
    """How requests travel."""

    lane: Literal["online", "deferred", "batch", "auto"] = "online"
    """How requests travel. `online`: one request, one answer. `deferred` (xAI): the provider gives a ticket and the
    answer is collected later. Example: `lane = "deferred"`."""
    stream: Flag = False
    """Receives answers piece by piece. It helps where a proxy cuts long silent connections. Example: `stream = true`.
    """
    max_ticket_wait_seconds: Amount = 86_400
    """How long a run waits for open tickets before it ends with exit code 6. The next run collects them. Example:
    `max_ticket_wait_seconds = 3600`."""
    max_open_tickets: Count = 10_000
    """The most tickets that are open at once. Example: `max_open_tickets = 2000`."""
    wait: Flag = True
    """In the batch lane: wait for the batches. `false`: end with exit code 6 when everything is submitted; the next run
    collects. Example: `wait = false`."""
    max_batch_rows: Count | None = None
    """The most rows of a batch. Default: the provider's limit. Example: `max_batch_rows = 10000`."""
    max_batch_bytes: Count | None = None
    """The most bytes of the input file of a batch. Default: the provider's limit. Example: `max_batch_bytes =
    100000000`."""
    max_open_batches: Count | None = None
    """The most batches that are open at once. Default: the provider's limit. Example: `max_open_batches = 10`."""
    max_enqueued_tokens: Count | None = None
    """The most prompt tokens in open batches of a model, as the provider's tier allows. Default: learned from its
    refusals. Example: `max_enqueued_tokens = 900000`."""

    ready_by: LocalTime | None = None
    """The run stops sending at this time of day, in the job's `timezone`, and ends with exit code 4. A run that starts
    later has until this time of the next day. Example: `ready_by = "07:00"`."""

    def ready_at(self, began_at: datetime, zone: tzinfo) -> datetime | None:
        """The first ``ready_by`` after ``began_at``, in ``zone``. Of an hour that a clock change repeats, the first."""
        if self.ready_by is None:
            return None
        at = time.fromisoformat(self.ready_by)
        today = began_at.astimezone(zone).date()
        found = (datetime.combine(today + timedelta(days=days), at, zone) for days in (0, 1))
        return next(each for each in found if each.astimezone(UTC) > began_at)

    @property
    def lane_used(self) -> Lane:
        """``auto`` means the online lane at present."""
        return Lane.ONLINE if self.lane == "auto" else Lane(self.lane)


class LimitsSection(Section):
    """Limits of rate, time, cost and failures. Absent rates are learned from the provider."""

    requests_per_minute: Amount | None = None
    """The most requests a minute. Default: learned from the provider's headers and refusals. Example:
    `requests_per_minute = 480`."""
    requests_per_second: Amount | None = None
    """The most requests a second. It may stand beside `requests_per_minute`; the tighter one holds. Example:
    `requests_per_second = 8`."""
    tokens_per_minute: Amount | None = None
    """The most tokens a minute, prompts and answers together. Example: `tokens_per_minute = 2000000`."""
    concurrency: Count = 256
    """The most requests on the wire at once. Example: `concurrency = 64`."""
    max_attempts: Count = 5
    """How often a request is tried before its row fails. Refusals for the rate (429) and failed connections do not
    count. Example: `max_attempts = 3`."""
    request_timeout_seconds: Amount = 600
    """How long an answer is waited for. Example: `request_timeout_seconds = 120`."""
    max_runtime_seconds: Amount | None = None
    """The run stops sending after this time and ends with exit code 4. It counts from the start of the process.
    Example: `max_runtime_seconds = 28800`."""
    max_cost_usd: Money | None = None
    """The most that all runs of the output may cost together. The run stops before it is exceeded (exit code 4).
    Example: `max_cost_usd = 25.0`."""
    max_cost_usd_per_run: Money | None = None
    """The most that one run may cost. Example: `max_cost_usd_per_run = 5.0`."""
    max_cost_usd_per_day: Money | None = None
    """The most that a day may cost, in the job's time zone. Example: `max_cost_usd_per_day = 10.0`."""
    max_cost_usd_per_month: Money | None = None
    """The most that a month may cost, in the job's time zone. Example: `max_cost_usd_per_month = 100.0`."""
    max_failed: RowShare = RowLimit(None, Fraction(1, 5))
    """The run stops when more rows than this have failed at the provider, of at least 100 that were sent: a number or
    a share. Example: `max_failed = "5%"`."""
    min_accuracy: RowPart | None = None
    """The run stops when a smaller share of the known answers is right (exit code 4). Rows with known answers are asked
    first, in random order. The run looks after 50, 100, 200 ... of them, and stops where the accuracy is below this
    share with 95% certainty over all looks. A trial (`--limit`, `--sample`) is not checked. It needs `answer.expected`
    or `answer.expected_file`. Example: `min_accuracy = "90%"`."""
    failed_ok: RowShare = RowLimit(None, Fraction(0))
    """Up to so many failed rows, a number or a share, the run still ends with exit code 0. Example: `failed_ok =
    "1%"`."""
    retry_failed: Annotated[Literal["unpaid", "all", "none"] | tuple[str, ...], BeforeValidator(kinds)] = "unpaid"
    """Which failed rows the next run asks again. `unpaid`: those whose answer was not paid for. `all`, `none`, or a
    list of kinds. Example: `retry_failed = ["attempts_exhausted", "refused"]`."""
    quarantine_after_runs: Count = 5
    """A row that failed in so many runs in a row is set aside. `--retry-quarantined` brings it back. Example:
    `quarantine_after_runs = 3`."""
    ambiguous: Literal["retry", "hold"] = "retry"
    """What becomes of a row that may have been billed without an answer, after a timeout or a crash. `retry`: it is
    sent again. `hold`: it waits for your word. Example: `ambiguous = "hold"`."""
    max_outage_seconds: Amount = 7_200
    """The run ends when the provider has not answered for so long: exit code 4, or 5 where nothing ever succeeded.
    Example: `max_outage_seconds = 3600`."""
    share: Text | None = None
    """One budget of requests, tokens and money for the processes on this machine that give the same name here, or the
    same path of a file. Where their jobs give different limits, the smallest holds. `max_cost_usd_per_run` stays with
    each run. `check` prints the file. Example: `share = "my-key"`."""
    deduplicate: Flag = True
    """Asks rows with the same prompt and images once and shares the answer. Example: `deduplicate = false`."""

    @property
    def retry_kinds(self) -> frozenset[str]:
        """The kinds of failed rows that a rerun tries again."""
        match self.retry_failed:
            case "unpaid":
                return frozenset(ROW_FAULTS) - PAID_FAILURES
            case "all":
                return frozenset(ROW_FAULTS)
            case "none":
                return frozenset()
            case named:
                return frozenset(named)


class OutputSection(Section):
    """The output and its contents."""

    path: Text
    """The folder of the output, or its place in an object store: `s3://`, `gs://` or `az://`. Example: `path =
    "out/captions"`."""
    state_dir: Text | None = None
    """Where the local copy of an output in an object store is kept. Default: a folder in the user's state directory.
    Example: `state_dir = "/var/lib/batchvision"`."""
    sync_seconds: Amount = 5.0
    """A machine that is lost takes along at most the last so many seconds of an output in an object store. Their
    answers may be bought again. Example: `sync_seconds = 2`."""
    snapshot: Text | None = None
    """A Parquet file with the current answer of each row of the manifest, replaced at the end of each run. A name lies
    in the output's folder, a path with a folder is relative to the job file. Example: `snapshot =
    "current.parquet"`."""
    keep_raw_answers: Flag = True
    """Keeps the provider's raw answers in the ledger. `reparse` reads them again. Example: `keep_raw_answers =
    false`."""
    keep_reasoning: Flag = False
    """Keeps thoughts that the model shows, in the column `reasoning_text`. Example: `keep_reasoning = true`."""
    group_readable: Flag = False
    """Lets the group of the output's files read the journal, which otherwise only its owner can. Members of the group
    can then use `status`, `show` and `verify`. Where they may also write to the folders (`chmod -R g+ws`, umask 002)
    they can go on with each other's runs. Example: `group_readable = true`."""
    on_recipe_change: Literal["refuse", "redo", "new_rows_only"] = "refuse"
    """What a run does where answers exist under another prompt, model or image setting. `refuse`: it stops first and
    names the cost. `redo`: it asks those rows again. `new_rows_only`: it keeps their answers. Example:
    `on_recipe_change = "new_rows_only"`."""
