"""Every exception batchvision raises; each class knows its disposition and the word it is stored under.

::

    BatchvisionError
    ├── StopRun                      stop the run; rows not reached stay pending
    │   ├── JobInvalid               job_invalid           exit 2   (also: bad manifest, bad usage)
    │   │   └── ManifestChanged      manifest_changed      exit 4   (while a run was reading it)
    │   ├── ProviderRefuses          (what the provider says of the whole run, unless other rows are answered)
    │   │   ├── AuthenticationFailed     authentication_failed exit 5
    │   │   ├── OutOfCredit              out_of_credit         exit 5
    │   │   ├── ModelNotFound            model_not_found       exit 5
    │   │   └── RequestsRejected         requests_rejected     exit 5
    │   ├── ProviderNeverAnswered    provider_never_answered exit 5
    │   ├── ProviderUnavailable      provider_unavailable  exit 4
    │   ├── QuotaReached             quota_reached         exit 4
    │   ├── NoWayToProvider          (nothing was sent, and a setting of the job or the machine must change)
    │   │   ├── CertificateFailed        certificate_failed    exit 5
    │   │   ├── ProxyRefused             proxy_refused         exit 5
    │   │   └── WrongScheme              wrong_scheme          exit 5
    │   ├── SpendCapReached          spend_cap_reached     exit 4
    │   ├── DeadlineReached          deadline_reached      exit 4
    │   ├── TooManyFailures          too_many_failures     exit 4
    │   ├── DiskFailed               disk_failed           exit 7
    │   ├── CheckpointDamaged        checkpoint_damaged    exit 7
    │   ├── TooManyOpenFiles         too_many_open_files   exit 4
    │   └── OutputHeld               output_held           exit 11
    ├── RowFault                     fail the row: the closed set of outcomes
    │   ├── RowInvalid ImageUnreadable ImageTooLarge ImageForbidden ImageUnreachable     found here, nothing sent
    │   ├── RequestRejected ContextTooLong Refused Truncated EmptyAnswer InvalidAnswer   said by the provider
    │   └── Expired LostAfterRead AttemptsExhausted
    └── Transient                    try again
        ├── RateLimited ConnectFailed            spend no attempt
        ├── ServerError                          the provider answered, and failed
        ├── ImageDownloadFailed                  the provider could not fetch a URL: once more, then inlined
        └── RequestTimedOut ConnectionCut AnswerCutShort     may have been billed: the attempt is `ambiguous`

Messages say what happened and what to do next; they never hold a secret (see ``Secrets.mask`` in ``secrets.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import ClassVar

#: Locks, signals and durable folders are those of POSIX systems.
NOT_ON_WINDOWS = "batchvision does not run on Windows itself: run it in WSL (`wsl --install`) or in Docker."


#: What to do where the limit of open files is too small.
MORE_OPEN_FILES = "Raise the limit (`ulimit -n 4096`) or lower limits.concurrency"


class Disposition(Enum):
    """What an error means for the run."""

    RETRY = "retry"  #: the same request may succeed later
    FAIL_ROW = "fail_row"  #: this row is failed, all others go on
    STOP_RUN = "stop_run"  #: no further request can succeed, or none is allowed


class BatchvisionError(Exception):
    """Base of all; ``kind`` is the stored word, ``disposition`` what follows."""

    kind: ClassVar[str]
    disposition: ClassVar[Disposition]

    @property
    def message(self) -> str:
        return str(self)


# ---------------------------------------------------------------------------------- stop the run


class StopRun(BatchvisionError):
    """The run ends; ``exit_code`` is the process's (DESIGN: exit codes)."""

    disposition = Disposition.STOP_RUN
    exit_code: ClassVar[int]


class JobInvalid(StopRun):
    """The job, its manifest or the command line is wrong. ``problems`` lists all that was found, one sentence each."""

    kind = "job_invalid"
    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class ManifestChanged(JobInvalid):
    """The manifest was written to while a run was reading it. Answered rows stay; another run reads the new content."""

    kind = "manifest_changed"
    exit_code = 4


class ProviderRefuses(StopRun):
    """The provider refuses, for a reason that concerns every request.

    ``is_certain``: the words say so themselves; otherwise other rows decide (see ``refusals``). ``said`` is what the
    provider answered, without our advice.
    """

    exit_code = 5

    def __init__(self, message: str, *, said: str | None = None, is_certain: bool = True) -> None:
        super().__init__(message)
        self.said = message if said is None else said
        self.is_certain = is_certain


class AuthenticationFailed(ProviderRefuses):
    """The provider refuses the key."""

    kind = "authentication_failed"


class OutOfCredit(ProviderRefuses):
    """The account has no credit left or has reached its own spending limit."""

    kind = "out_of_credit"


class ModelNotFound(ProviderRefuses):
    """The provider does not know the model (or the URL), or the model cannot do what every row asks."""

    kind = "model_not_found"


class RequestsRejected(ProviderRefuses):
    """The first requests were all refused alike, for a reason that names no row."""

    kind = "requests_rejected"


class ProviderUnavailable(StopRun):
    """The provider has not answered for ``limits.max_outage_seconds``."""

    kind = "provider_unavailable"
    exit_code = 4


class ProviderNeverAnswered(StopRun):
    """The same, and it has answered neither in this run nor in the one before."""

    kind = "provider_never_answered"
    exit_code = 5


class QuotaReached(StopRun):
    """The account's quota is used up, and not whole again for hours."""

    kind = "quota_reached"
    exit_code = 4


class NoWayToProvider(StopRun):
    """No request can reach the provider until a setting changes. The request at hand costs nothing."""

    exit_code = 5


class CertificateFailed(NoWayToProvider):
    """A certificate is not trusted: the provider's by us, or ours by the provider."""

    kind = "certificate_failed"


class ProxyRefused(NoWayToProvider):
    """The proxy wants a user and password, or does not let requests through to the provider."""

    kind = "proxy_refused"


class WrongScheme(NoWayToProvider):
    """The base URL says https where the server speaks http, or the reverse."""

    kind = "wrong_scheme"


class SpendCapReached(StopRun):
    """The job's own cost cap leaves no money for another request."""

    kind = "spend_cap_reached"
    exit_code = 4


class DeadlineReached(StopRun):
    """The job's own time limit (run time or ticket wait) has passed."""

    kind = "deadline_reached"
    exit_code = 4


class TooManyFailures(StopRun):
    """More rows failed at the provider than ``limits.max_failed`` allows."""

    kind = "too_many_failures"
    exit_code = 4


class DiskFailed(StopRun):
    """A write or an fsync failed: nothing more is sent."""

    kind = "disk_failed"
    exit_code = 7


class CheckpointDamaged(StopRun):
    """The journal or a part does not hold what was written."""

    kind = "checkpoint_damaged"
    exit_code = 7


class TooManyOpenFiles(StopRun):
    """The process may open no further file: neither the row nor the disk is at fault."""

    kind = "too_many_open_files"
    exit_code = 4

    def __init__(self, doing: str) -> None:
        super().__init__(f"{doing} failed: too many files are open. {MORE_OPEN_FILES}, then run again to go on")


class OutputHeld(StopRun):
    """Another process is running on this output."""

    kind = "output_held"
    exit_code = 11


# ---------------------------------------------------------------------------------- fail the row


class RowFault(BatchvisionError):
    """The row is failed. ``at_provider``: the provider said so, and the row counts toward ``limits.max_failed``.

    ``shows_access``: the provider accepted key, URL and model before it came to this.
    """

    disposition = Disposition.FAIL_ROW
    at_provider: ClassVar[bool] = True
    shows_access: ClassVar[bool] = False


class RowInvalid(RowFault):
    """Null prompt, no image, a NUL in a cell, a row_id seen before."""

    kind = "row_invalid"
    at_provider = False


class ImageUnreadable(RowFault):
    """Missing, empty, truncated, damaged or not an image."""

    kind = "image_unreadable"
    at_provider = False


class ImageTooLarge(RowFault):
    """More pixels or bytes than allowed, and not to be scaled down."""

    kind = "image_too_large"
    at_provider = False


class ImageForbidden(RowFault):
    """Outside ``manifest.root``, not a regular file, or at an address that is not public."""

    kind = "image_forbidden"
    at_provider = False


class ImageUnreachable(RowFault):
    """A URL that could not be downloaded."""

    kind = "image_unreachable"
    at_provider = False


class RequestRejected(RowFault):
    """The provider says that this request is wrong; sending it again would change nothing."""

    kind = "request_rejected"


class ContextTooLong(RowFault):
    """The request has more tokens than the model takes."""

    kind = "context_too_long"
    shows_access = True


class Refused(RowFault):
    """A safety check or the model itself declined. Never sent again by a rerun unless asked."""

    kind = "refused"
    shows_access = True


class Truncated(RowFault):
    """The answer reached ``max_tokens`` before its end."""

    kind = "truncated"
    shows_access = True


class EmptyAnswer(RowFault):
    """An answer without content; asked once more, then failed."""

    kind = "empty"
    shows_access = True


class InvalidAnswer(RowFault):
    """The answer does not satisfy the job's schema or labels."""

    kind = "invalid_answer"
    shows_access = True


class Expired(RowFault):
    """A ticket older than the provider keeps it."""

    kind = "expired"


class LostAfterRead(RowFault):
    """A one-time answer was read by the provider's account but did not reach the disk."""

    kind = "lost_after_read"


class AttemptsExhausted(RowFault):
    """``limits.max_attempts`` attempts failed; ``last_kind`` says how the last one did."""

    kind = "attempts_exhausted"

    def __init__(self, message: str, last_kind: str) -> None:
        super().__init__(message)
        self.last_kind = last_kind


# ---------------------------------------------------------------------------------- try again


class Transient(BatchvisionError):
    """May succeed later. The class says what a failed try costs.

    ``spends_attempt``: counts toward ``limits.max_attempts``. ``maybe_billed``: the provider may have done and
    billed the work although no whole answer reached us. ``retry_after_seconds``: the provider's own wish.
    """

    disposition = Disposition.RETRY
    spends_attempt: ClassVar[bool] = True
    maybe_billed: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class RateLimited(Transient):
    """429. ``limit_per_second`` / ``limit_tokens_per_minute`` where the text or the headers say them."""

    kind = "rate_limited"
    spends_attempt = False

    def __init__(
        self,
        message: str,
        *,
        retry_after_seconds: float | None = None,
        limit_per_second: float | None = None,
        limit_tokens_per_minute: float | None = None,
    ) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.limit_per_second = limit_per_second
        self.limit_tokens_per_minute = limit_tokens_per_minute


class ConnectFailed(Transient):
    """No connection: the request never left."""

    kind = "connect_failed"
    spends_attempt = False


class ServerError(Transient):
    """The provider answered with a failure of its own (5xx, overloaded, a 200 that holds an error)."""

    kind = "server_error"


class ImageDownloadFailed(Transient):
    """The provider could not download an image URL."""

    kind = "image_download_failed"


class RequestTimedOut(Transient):
    """No whole answer before the deadline, after the request was sent."""

    kind = "timeout"
    maybe_billed = True


class ConnectionCut(Transient):
    """The connection ended after the request was sent and before an answer began or was whole."""

    kind = "connection_cut"
    maybe_billed = True


class AnswerCutShort(Transient):
    """A 200 whose body is no whole JSON answer (half a body, HTML, a stream without its end)."""

    kind = "answer_cut_short"
    maybe_billed = True


def shows_access(error: BatchvisionError | None) -> bool:
    """Whether a request that ended so shows that key, URL and model are right: it was answered (None), or reached the
    model."""
    return error is None or (isinstance(error, RowFault) and error.shows_access)


def _leaves(of: type[RowFault]) -> dict[str, type[RowFault]]:
    return {sub.kind: sub for sub in of.__subclasses__()}


def _all_subclasses(of: type[StopRun]) -> Iterator[type[StopRun]]:
    for sub in of.__subclasses__():
        yield sub
        yield from _all_subclasses(sub)


#: The closed set of row failures, by the word they are stored under.
ROW_FAULTS: dict[str, type[RowFault]] = _leaves(RowFault)

#: The transient errors, by the word they are stored under.
TRANSIENTS: dict[str, type[Transient]] = {sub.kind: sub for sub in Transient.__subclasses__()}

#: The kinds of all errors that stop a run.
RUN_STOPS: frozenset[str] = frozenset(sub.kind for sub in _all_subclasses(StopRun) if hasattr(sub, "kind"))

#: Failures for which money was, or may have been, spent: a rerun leaves them alone under ``retry_failed = "unpaid"``.
PAID_FAILURES = frozenset({"refused", "truncated", "empty", "invalid_answer", "lost_after_read"})
