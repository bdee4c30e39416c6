"""Every exception of batchvision. The base class decides the consequence, and ``kind`` is the stored word.

::

    BatchvisionError
    ├── StopRun                       stop the run; rows not reached stay pending
    │   ├── JobInvalid            exit 2   the job, its manifest or the command line is wrong
    │   │   └── ManifestChanged   exit 4   the manifest was modified while a run was reading it
    │   ├── ProviderRefuses           every request is refused, unless other rows are answered
    │   │   ├── AuthenticationFailed  exit 5   the provider refuses the key
    │   │   ├── OutOfCredit           exit 5   the account has no credit left, or reached its own spending limit
    │   │   ├── ModelNotFound         exit 5   unknown model or URL, or the model lacks an ability that every row needs
    │   │   └── RequestsRejected      exit 5   the first requests were rejected alike, with words that name no row
    │   ├── NoWayToProvider           no request arrives until a setting changes; nothing was billed
    │   │   ├── CertificateFailed     exit 5   the provider's certificate is not trusted here, or ours not there
    │   │   ├── ProxyRefused          exit 5   the proxy wants a password, or blocks the provider
    │   │   └── WrongScheme           exit 5   the base URL has https where the server speaks http, or the reverse
    │   ├── ProviderNeverAnswered exit 5   as below, and no request of this run or the one before was answered
    │   ├── ProviderUnavailable   exit 4   no answer for `limits.max_outage_seconds`
    │   ├── QuotaReached          exit 4   the account's quota is used up for hours
    │   ├── SpendCapReached       exit 4   the job's own cost cap leaves no money for another request
    │   ├── DeadlineReached       exit 4   the job's own time limit (run time or ticket wait) has passed
    │   ├── TooManyFailures       exit 4   more rows failed at the provider than `limits.max_failed` allows
    │   ├── AccuracyTooLow        exit 4   fewer known answers are right than `limits.min_accuracy` wants
    │   ├── TooManyOpenFiles      exit 4   the process may open no further file
    │   ├── DiskFailed            exit 7   a write or an fsync failed
    │   ├── CheckpointDamaged     exit 7   a file of the output does not hold what was written
    │   ├── LoadFailed            exit 8   the destination of a load is unreachable, refuses, or is full or locked
    │   └── OutputHeld            exit 11  another process is running on this output
    ├── RowFault                      fail the row: the closed set of failures
    │   ├── RowInvalid                null prompt, no image, a NUL in a cell, a row_id seen before
    │   ├── ImageUnreadable           missing, empty, truncated, damaged or not an image
    │   ├── ImageTooLarge             more pixels or bytes than allowed, and not to be scaled down
    │   ├── ImageForbidden            outside `manifest.root`, not a regular file, or at an address that is not public
    │   ├── ImageUnreachable          a URL that could not be downloaded
    │   ├── RequestRejected           the provider finds this request wrong; sending it again would change nothing
    │   ├── ContextTooLong            the request has more tokens than the model takes
    │   ├── Refused                   a safety check or the model itself declined
    │   ├── Truncated                 the answer reached max_tokens before its end
    │   ├── EmptyAnswer               an answer without content, twice
    │   ├── InvalidAnswer             the answer does not satisfy the job's schema or labels
    │   ├── Expired                   a ticket older than the provider keeps it
    │   ├── LostAfterRead             the provider handed out a one-time answer, and it did not reach the disk
    │   └── AttemptsExhausted         `limits.max_attempts` attempts failed
    └── Transient                     the same request may succeed later
        ├── RateLimited               429
        ├── ConnectFailed             no connection: the request never left
        ├── ServerError               the provider failed (5xx, overloaded, a 200 that holds an error)
        ├── ImageDownloadFailed       the provider could not download an image URL: once more, then inlined
        ├── RequestTimedOut           no whole answer before the deadline, after the request was sent
        ├── ConnectionCut             the connection ended after the request was sent
        └── AnswerCutShort            a 200 whose body is no whole JSON answer (half a body, HTML, a cut stream)

No message holds a secret (see ``Secrets.mask`` in ``secrets.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

NOT_ON_WINDOWS = "batchvision does not run on Windows itself: run it in WSL (`wsl --install`) or in Docker."

RAISE_OPEN_FILES = "Raise the limit (`ulimit -n 4096`)"
#: The next step where the limit of open files is too small for a run.
MORE_OPEN_FILES = f"{RAISE_OPEN_FILES} or lower limits.concurrency"


class BatchvisionError(Exception):
    """Base class. ``kind`` is the stored word.

    ``what``: what happened, and to which row, file or key. ``next_step``: the user's remedy, if known.
    ``message`` is both in one text.
    """

    kind: ClassVar[str]
    #: Whether the error proves that the provider accepted key, URL and model. A usable answer proves it too.
    shows_access: ClassVar[bool] = False
    #: Stands between ``what`` and ``next_step`` in the message.
    joint: ClassVar[str] = "; "

    def __init__(self, what: str, *, next_step: str | None = None) -> None:
        super().__init__(what if next_step is None else f"{what}{self.joint}{next_step}")
        self.what = what
        self.next_step = next_step

    @property
    def message(self) -> str:
        return str(self)


# ---------------------------------------------------------------------------------- stop the run


class StopRun(BatchvisionError):
    """The run ends with ``exit_code``. ``key``: the key of the limit or setting in the job file."""

    exit_code: ClassVar[int]

    def __init__(self, what: str, *, next_step: str | None = None, key: str | None = None) -> None:
        super().__init__(what, next_step=next_step)
        self.key = key


class JobInvalid(StopRun):
    """The job, its manifest or the command line is wrong. ``problems`` lists every problem, one sentence each."""

    kind = "job_invalid"
    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class ManifestChanged(JobInvalid):
    kind = "manifest_changed"
    exit_code = 4


class ProviderRefuses(StopRun):
    """The provider refuses for a reason that concerns every request; ``what`` holds the provider's own words.

    ``is_certain``: the words are clear. Otherwise the answers to other rows decide (see ``refusals``).
    """

    exit_code = 5

    def __init__(self, what: str, *, next_step: str | None = None, is_certain: bool = True) -> None:
        super().__init__(what, next_step=next_step)
        self.is_certain = is_certain


class AuthenticationFailed(ProviderRefuses):
    kind = "authentication_failed"


class OutOfCredit(ProviderRefuses):
    kind = "out_of_credit"


class ModelNotFound(ProviderRefuses):
    kind = "model_not_found"


class RequestsRejected(ProviderRefuses):
    kind = "requests_rejected"


class NoWayToProvider(StopRun):
    exit_code = 5


class CertificateFailed(NoWayToProvider):
    kind = "certificate_failed"


class ProxyRefused(NoWayToProvider):
    kind = "proxy_refused"


class WrongScheme(NoWayToProvider):
    kind = "wrong_scheme"


class ProviderNeverAnswered(StopRun):
    kind = "provider_never_answered"
    exit_code = 5


class ProviderUnavailable(StopRun):
    kind = "provider_unavailable"
    exit_code = 4


class QuotaReached(StopRun):
    kind = "quota_reached"
    exit_code = 4


class SpendCapReached(StopRun):
    kind = "spend_cap_reached"
    exit_code = 4


class DeadlineReached(StopRun):
    kind = "deadline_reached"
    exit_code = 4


class TooManyFailures(StopRun):
    kind = "too_many_failures"
    exit_code = 4


class AccuracyTooLow(StopRun):
    kind = "accuracy_too_low"
    exit_code = 4


class TooManyOpenFiles(StopRun):
    kind = "too_many_open_files"
    exit_code = 4

    def __init__(self, doing: str) -> None:
        super().__init__(f"{doing} failed: too many files are open. {MORE_OPEN_FILES}, then run again to go on")


class DiskFailed(StopRun):
    kind = "disk_failed"
    exit_code = 7


class CheckpointDamaged(StopRun):
    kind = "checkpoint_damaged"
    exit_code = 7
    joint = ". Nothing was changed and nothing was sent. Next: "


class LoadFailed(StopRun):
    kind = "load_failed"
    exit_code = 8


class OutputHeld(StopRun):
    kind = "output_held"
    exit_code = 11


# ---------------------------------------------------------------------------------- fail the row


class RowFault(BatchvisionError):
    """The row is failed. ``at_provider``: the provider reported it, so the row counts toward ``limits.max_failed``."""

    at_provider: ClassVar[bool] = True


class RowInvalid(RowFault):
    kind = "row_invalid"
    at_provider = False


class ImageUnreadable(RowFault):
    kind = "image_unreadable"
    at_provider = False


class ImageTooLarge(RowFault):
    kind = "image_too_large"
    at_provider = False


class ImageForbidden(RowFault):
    kind = "image_forbidden"
    at_provider = False


class ImageUnreachable(RowFault):
    kind = "image_unreachable"
    at_provider = False


class RequestRejected(RowFault):
    kind = "request_rejected"


class ContextTooLong(RowFault):
    kind = "context_too_long"
    shows_access = True


class Refused(RowFault):
    kind = "refused"
    shows_access = True


class Truncated(RowFault):
    kind = "truncated"
    shows_access = True


class EmptyAnswer(RowFault):
    kind = "empty"
    shows_access = True


class InvalidAnswer(RowFault):
    kind = "invalid_answer"
    shows_access = True


class Expired(RowFault):
    kind = "expired"


class LostAfterRead(RowFault):
    kind = "lost_after_read"


class AttemptsExhausted(RowFault):
    """``limits.max_attempts`` attempts failed; ``last_kind`` is the kind of the last error."""

    kind = "attempts_exhausted"

    def __init__(self, what: str, last_kind: str) -> None:
        super().__init__(what)
        self.last_kind = last_kind


# ---------------------------------------------------------------------------------- try again


class Transient(BatchvisionError):
    """The same request may succeed later.

    ``spends_attempt``: counts toward ``limits.max_attempts``. ``maybe_billed``: the provider may have billed the work
    although no whole answer arrived. ``retry_after_seconds``: the wait that the provider asks for.
    """

    spends_attempt: ClassVar[bool] = True
    maybe_billed: ClassVar[bool] = False

    def __init__(self, what: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(what)
        self.retry_after_seconds = retry_after_seconds


class RateLimited(Transient):
    """429. ``limit_per_second`` and ``limit_tokens_per_minute``: where text or headers state them.

    ``is_capacity``: the provider has no capacity for the service tier at the moment. The rate is not the cause.
    """

    kind = "rate_limited"
    spends_attempt = False

    def __init__(
        self,
        what: str,
        *,
        retry_after_seconds: float | None = None,
        limit_per_second: float | None = None,
        limit_tokens_per_minute: float | None = None,
        is_capacity: bool = False,
    ) -> None:
        super().__init__(what, retry_after_seconds=retry_after_seconds)
        self.is_capacity = is_capacity
        self.limit_per_second = limit_per_second
        self.limit_tokens_per_minute = limit_tokens_per_minute


class ConnectFailed(Transient):
    kind = "connect_failed"
    spends_attempt = False


class ServerError(Transient):
    kind = "server_error"


class ImageDownloadFailed(Transient):
    kind = "image_download_failed"


class RequestTimedOut(Transient):
    kind = "timeout"
    maybe_billed = True


class ConnectionCut(Transient):
    kind = "connection_cut"
    maybe_billed = True


class AnswerCutShort(Transient):
    kind = "answer_cut_short"
    maybe_billed = True


# ---------------------------------------------------------------------------------- tables


#: The closed set of row failures, by kind.
ROW_FAULTS: dict[str, type[RowFault]] = {sub.kind: sub for sub in RowFault.__subclasses__()}

#: The transient errors, by kind.
TRANSIENTS: dict[str, type[Transient]] = {sub.kind: sub for sub in Transient.__subclasses__()}

#: The kinds of all errors that stop a run.
RUN_STOPS = frozenset(
    each.kind for sub in StopRun.__subclasses__() for each in (sub, *sub.__subclasses__()) if hasattr(each, "kind")
)

#: Failures that cost money, or may have: a rerun skips them under ``retry_failed = "unpaid"``.
PAID_FAILURES = frozenset({"refused", "truncated", "empty", "invalid_answer", "lost_after_read"})
