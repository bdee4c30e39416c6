"""How much of a provider's limit is used, and how often it is overstepped. Each case takes a minute or two.

Shares are measured by the clock, on cores that are kept awake (:mod:`benches.awake`).
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benches.awake import CAN_BE_KEPT, kept_awake
from benches.measure import Contender, Result, Server, client, interleaved, served, table
from benches.steady import early, longest_wait_of_the_largest, seconds_to_recover, share_of_allowed

PER_MINUTE = 6_000
TOKENS_PER_MINUTE = 1_200_000
IN_FLIGHT = 256
LATENCY_SECONDS = 0.2
GRACE_SECONDS = 0.15


@dataclass(frozen=True, slots=True)
class Case:
    """A server, the limits in the job, and the seconds at the start that do not count."""

    name: str
    title: str
    server: dict[str, Any]
    limits: dict[str, Any] = field(default_factory=dict)
    seconds: float = 40.0
    skip_seconds: float = 2.0
    limiter: tuple[float, float] | None = None


def _requests(burst: float, *says: str) -> dict[str, Any]:
    return {"per_minute": PER_MINUTE, "burst": burst, "latency_seconds": LATENCY_SECONDS, "says": says}


_TOKENS = {"tokens_per_minute": TOKENS_PER_MINUTE, "latency_seconds": LATENCY_SECONDS}
_GIVEN = {"requests_per_minute": PER_MINUTE}
CASES = (
    Case("given", "limits given, burst of one second", _requests(100), _GIVEN, limiter=(100, 1)),
    Case("burst-1", "limits given, burst 1", _requests(1), _GIVEN, limiter=(1, 0.01)),
    Case("headers", "not given; answers carry x-ratelimit headers", _requests(100, "limits"), skip_seconds=0.0),
    Case("words", "not given; xAI's words in the 429", _requests(100, "words"), seconds=120, skip_seconds=60),
    Case("retry-after", "not given; Retry-After only", _requests(100, "retry-after"), seconds=120, skip_seconds=60),
    Case("silent", "not given; a bare 429", _requests(100), seconds=120, skip_seconds=60),
)
TOKENS = Case(
    "tokens",
    "tokens a minute given, images of 200 to 6,000",
    _TOKENS,
    {"tokens_per_minute": TOKENS_PER_MINUTE},
    seconds=60,
    skip_seconds=12,
)
STORM = Case(
    "storm",
    "everything refused for 10 s with Retry-After",
    {**_requests(100, "retry-after"), "storm_after": 1_000, "storm_seconds": 10.0},
    _GIVEN,
    seconds=60,
)
STRAYS = Case(
    "strays",
    "no limit; one request in 250 refused with Retry-After: 1",
    {"latency_seconds": 0.7},
    seconds=40,
    skip_seconds=10,
)
STRAY_EVERY = 250  #: 0.4 %
PARTS = tuple(case.name for case in (*CASES, TOKENS, STORM, STRAYS))


def bench(chosen: Namespace, folder: Path) -> None:
    cases = [_shorter(case, chosen.seconds) for case in CASES if chosen.only in (None, case.name)]
    print("cores kept awake by loops of idle priority" if CAN_BE_KEPT else "cores may sleep: timers may be late")
    with kept_awake(), served() as server:
        if cases:
            requests_a_minute(chosen, folder, server, cases)
        if chosen.only in (None, TOKENS.name):
            tokens_a_minute(chosen, folder, server, _shorter(TOKENS, chosen.seconds))
        if chosen.only in (None, STORM.name):
            storm(chosen, folder, server, _shorter(STORM, chosen.seconds))
        if chosen.only in (None, STRAYS.name):
            strays(chosen, folder, server, _shorter(STRAYS, chosen.seconds))


def _shorter(case: Case, seconds: float | None) -> Case:
    """For a smoke test; the figures then say little."""
    if seconds is None:
        return case
    server = dict(case.server)
    if "storm_after" in server:
        server.update(storm_after=20, storm_seconds=min(1.0, seconds / 4))
    return Case(case.name, case.title, server, case.limits, seconds, min(case.skip_seconds, seconds / 4), case.limiter)


def _spec(folder: Path, case: Case, make: str, per_second: float, **more: Any) -> dict[str, Any]:
    rows = int(per_second * case.seconds * 1.3) + 200
    where = {"folder": str(folder), "manifest": f"{case.name}.parquet", "output": case.name}
    client("material", {"make": make, "rows": rows, **where})
    return {**where, "rows": rows, "in_flight": IN_FLIGHT, "limits": case.limits, "seconds": case.seconds, **more}


def requests_a_minute(chosen: Namespace, folder: Path, server: Server, cases: Sequence[Case]) -> None:
    lines = []
    for case in cases:
        spec = _spec(folder, case, "urls", PER_MINUTE / 60)
        contenders = [Contender("batchvision", "batchvision", spec, case.server)]
        few = {"rows": spec["rows"], "in_flight": IN_FLIGHT, "seconds": case.seconds}
        if case.limiter:
            paced = {**few, "limiter": case.limiter}
            title = f"aiohttp, AsyncLimiter({case.limiter[0]:g}, {case.limiter[1]:g})"
            contenders.append(Contender(title, "aiohttp", paced, case.server))
        elif case.name == "retry-after":
            contenders.append(Contender("openai SDK, its own retries", "openai", few, case.server))
        results = interleaved(contenders, chosen.rounds, server)
        lines += [[case.title, title, *_shares(each, case)] for title, each in results.items()]
    table(
        f"Server: {PER_MINUTE:,} a minute, {LATENCY_SECONDS * 1000:.0f} ms; {IN_FLIGHT} in flight",
        ["", "", "share of the allowed rate", "429s", "429s of the whole run"],
        lines,
        "The first 2 s are left out where limits are given, the first 60 s where nothing tells them beforehand, "
        "nothing where answers carry headers.",
    )


def _of(each: Sequence[Result], figure: Callable[[Any], float]) -> float:
    return median(figure(result.told) for result in each)


def _shares(each: Sequence[Result], case: Case) -> list[str]:
    return [
        f"{_of(each, lambda told: share_of_allowed(told, case.skip_seconds)[0]):.3f}",
        f"{_of(each, lambda told: share_of_allowed(told, case.skip_seconds)[1]):.2%}",
        f"{_of(each, lambda told: 1 - sum(told['accepted']) / len(told['accepted'])):.2%}",
    ]


def tokens_a_minute(chosen: Namespace, folder: Path, server: Server, case: Case) -> None:
    spec = _spec(folder, case, "sizes", TOKENS_PER_MINUTE / 60 / 2_000, question="What is {title}? tokens={tokens}")
    each = interleaved([Contender("batchvision", "batchvision", spec, case.server)], chosen.rounds, server)
    table(
        f"Server: {TOKENS_PER_MINUTE:,} tokens a minute; images of 200 to 6,000 tokens",
        ["", "share of the allowed tokens", "429s", "429s of the whole run", "longest wait of the largest, fair = 1"],
        [
            [title, *_shares(results, case), f"{_of(results, longest_wait_of_the_largest):.2f}"]
            for title, results in each.items()
        ],
        f"The first {case.skip_seconds:g} s are left out. The wait is the time at the server since the request before.",
    )


def storm(chosen: Namespace, folder: Path, server: Server, case: Case) -> None:
    spec = _spec(folder, case, "urls", PER_MINUTE / 60)
    each = interleaved([Contender("batchvision", "batchvision", spec, case.server)], chosen.rounds, server)
    lines = []
    for title, results in each.items():
        seen = [result.told for result in results if result.told["storm_until"]]
        recovered = [seconds_to_recover(told) for told in seen]
        known = [seconds for seconds in recovered if seconds is not None]
        lines.append(
            [
                title,
                str(max((early(told, GRACE_SECONDS) for told in seen), default=0)),
                f"{median(known):.1f} s" if known else "never",
            ]
        )
    table(
        f"{case.title}",
        ["", "requests early, most of all rounds", "back at 90 % of the rate after"],
        lines,
        f"Early: at the server after {GRACE_SECONDS} s of the storm and before its end.",
    )


def strays(chosen: Namespace, folder: Path, server: Server, case: Case) -> None:
    spec = _spec(folder, case, "urls", IN_FLIGHT / 0.7)
    kinds = {
        "no refusals": case.server,
        "429s": {**case.server, "stray_every": STRAY_EVERY},
        "503s": {**case.server, "stray_every": STRAY_EVERY, "stray_status": 503},
    }
    contenders = [
        Contender(title, "batchvision", {**spec, "output": f"{case.name}-{number}"}, settings)
        for number, (title, settings) in enumerate(kinds.items())
    ]
    results = interleaved(contenders, chosen.rounds, server)
    rates = {title: _of(each, lambda told: _accepted_per_second(told, case)) for title, each in results.items()}
    table(
        case.title,
        ["", "accepted a second", "share of the rate without refusals"],
        [[title, f"{rate:.1f}", f"{rate / rates['no refusals']:.3f}"] for title, rate in rates.items()],
        f"The first {case.skip_seconds:g} s are left out.",
    )


def _accepted_per_second(told: Mapping[str, Any], case: Case) -> float:
    arrivals = told["arrivals"]
    since, until = arrivals[0] + case.skip_seconds, arrivals[0] + case.seconds
    good = sum(good for at, good in zip(arrivals, told["accepted"], strict=True) if since <= at < until)
    return float(good / (until - since))
