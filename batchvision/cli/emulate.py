"""``batchvision emulate``: serve a loopback provider to rehearse a job."""

from __future__ import annotations

import errno
import signal
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from batchvision.cli.command import Command

if TYPE_CHECKING:
    from batchvision.emulator import EmulatorOptions, RunningEmulator


class _Flag(NamedTuple):
    """A flag, the field of EmulatorOptions that it sets, and its help line."""

    flag: str
    field: str
    kind: Any
    help: str


_SECONDS = "SECONDS|LOW-HIGH"
FLAGS: tuple[_Flag, ...] = (
    _Flag("--port", "port", int, "Where to listen. 0: any free port.  [default: 8765]"),
    _Flag("--key", "key", str, 'Accept this key only. Default: any that does not begin with "bad".'),
    _Flag("--latency", "latency_seconds", _SECONDS, "How long an answer takes."),
    _Flag("--deferred-latency", "deferred_seconds", _SECONDS, "How long a deferred answer takes."),
    _Flag("--ticket-life-seconds", "ticket_life_seconds", float, "How long a deferred answer is kept."),
    _Flag("--requests-per-minute", "requests_per_minute", float, "429 above this rate."),
    _Flag("--burst", "burst", int, "How many requests may come at once. Default: one second's worth."),
    _Flag("--tokens-per-minute", "tokens_per_minute", float, "429 above this rate."),
    _Flag("--rate-headers/--no-rate-headers", "rate_headers", bool, "Send x-ratelimit headers."),
    _Flag("--polls-count/--no-polls-count", "polls_count", bool, "Polls of deferred answers count as requests."),
    _Flag("--retry-after/--no-retry-after", "retry_after", bool, "Send Retry-After with a 429."),
    _Flag("--retry-after-seconds", "retry_after_seconds", float, "What Retry-After says."),
    _Flag("--slow-seconds", "slow_seconds", float, "How long the slow faults take."),
    _Flag("--fail-image-urls/--take-image-urls", "fail_image_urls", bool, "Answer image URLs with a download error."),
    _Flag("--max-image-bytes", "max_image_bytes", int, "Refuse larger images."),
    _Flag("--max-body-bytes", "max_body_bytes", int, "Refuse larger requests."),
    _Flag("--reasoning-tokens", "reasoning_tokens", int, "What a reasoning model thinks before each answer."),
    _Flag("--batch-validation", "batch_validation_seconds", _SECONDS, "How long a batch is validated."),
    _Flag("--batch-latency", "batch_seconds", _SECONDS, "How long a batch is worked on."),
    _Flag("--batch-life-seconds", "batch_life_seconds", float, "When the unfinished requests of a batch expire."),
    _Flag("--batch-max-bytes", "batch_max_bytes", int, "Refuse larger input files."),
    _Flag("--batch-max-lines", "batch_max_lines", int, "Refuse input files with more requests."),
    _Flag("--batch-max-open", "batch_max_open", int, "429 for a further batch."),
    _Flag("--batch-max-enqueued-tokens", "batch_max_enqueued_tokens", int, "Fail a batch beyond it (OpenAI's face)."),
    _Flag("--batch-creates-per-second", "batch_creates_per_second", float, "429 when batches are created faster."),
    _Flag("--ledger-entries", "ledger_entries", int, "How many of the newest requests the bill lists one by one."),
    _Flag("--seed", "seed", int, "Which requests meet a fault."),
)


def _flags(function: Any) -> Any:
    for flag in reversed(FLAGS):
        shown = {"metavar": flag.kind, "type": str} if flag.kind is _SECONDS else {"type": flag.kind}
        function = click.option(flag.flag, flag.field, default=None, help=flag.help, **shown)(function)
    return function


@click.command(cls=Command, name="emulate")
@_flags
@click.option("--fault", "faults", multiple=True, metavar="KIND=RATE", help="E.g. server_error=0.05. May be repeated.")
def command(faults: tuple[str, ...], **given: Any) -> int:
    """Serve a provider on this machine: xAI, OpenRouter and OpenAI faces, until Ctrl-C.

    It answers from the pixels (size, main colours, a matching label) and is no model. It has limits, latencies, faults
    and a bill of its own, so that a job can be rehearsed before money is spent.
    """
    chosen = options(faults, given)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with _started(chosen) as emulator:
        click.echo("\n".join(welcome_lines(emulator.url)))
        while not stop.wait(timeout=3600):
            pass
        bill = emulator.bill()
    click.echo(f"stopped after {bill.requests:,} requests", err=True)
    return 0


def _started(chosen: EmulatorOptions) -> RunningEmulator:
    """The listening emulator. Raises UsageError if its port is taken."""
    from batchvision.emulator import start_in_thread

    try:
        return start_in_thread(chosen)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        why = "is in use; is another emulator running?" if error.errno == errno.EADDRINUSE else "needs more rights."
        raise click.UsageError(f"port {chosen.port} {why} --port 0 takes any free one.") from None


def options(faults: tuple[str, ...], given: dict[str, Any]) -> EmulatorOptions:
    """The options from the given flags. Raises UsageError with the message of the emulator."""
    from batchvision.emulator import DEFAULT_PORT, EmulatorOptions

    chosen = {name: value for name, value in given.items() if value is not None}
    for name in (flag.field for flag in FLAGS if flag.kind is _SECONDS):
        if name in chosen:
            chosen[name] = _seconds(chosen[name])
    try:
        return EmulatorOptions(**{"port": DEFAULT_PORT, **chosen, "fault_rates": dict(map(_fault, faults))})
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _seconds(text: str) -> float | tuple[float, ...]:
    """``0.5`` or ``0.2-1.5``."""
    try:
        low, dash, high = text.partition("-")
        return (float(low), float(high)) if dash else float(low)
    except ValueError:
        raise click.UsageError(f"a latency is seconds, or LOW-HIGH such as 0.2-1.5; got {text!r}.") from None


def _fault(text: str) -> tuple[str, float]:
    kind, _, rate = text.partition("=")
    try:
        return kind, float(rate)
    except ValueError:
        raise click.UsageError(f"--fault takes KIND=RATE, e.g. server_error=0.05; got {text!r}.") from None


def welcome_lines(url: str) -> list[str]:
    """The URL, and how to use it in a job or on a command line."""
    return [
        f"emulator at {url}   (Ctrl-C stops it)",
        "",
        "In a job file:",
        "  [provider]",
        '  name = "emulator"',
        f'  base_url = "{url}/v1"',
        "",
        "Or for any job, as it is:",
        f"  batchvision run JOB --provider emulator --base-url {url}/v1 --out out/rehearsal",
        "",
        f"Other faces: {url}/openrouter/api/v1 and {url}/openai/v1. The bill: {url}/_emulator/bill",
    ]
