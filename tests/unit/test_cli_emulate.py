"""Every option of the emulator has a flag. A wrong value gives the emulator's message."""

from __future__ import annotations

from dataclasses import fields

import click
import pytest

from batchvision.cli.emulate import FLAGS, options, welcome_lines
from batchvision.emulator import DEFAULT_PORT, EmulatorOptions


def test_every_option_has_a_flag() -> None:
    flagged = {flag.field for flag in FLAGS} | {"fault_rates"}
    assert flagged == {each.name for each in fields(EmulatorOptions)}


def test_nothing_given_is_the_emulators_own_default_at_the_usual_port() -> None:
    assert options((), {flag.field: None for flag in FLAGS}) == EmulatorOptions(port=DEFAULT_PORT)


def test_latencies_and_faults_are_read() -> None:
    chosen = options(("server_error=0.05", "refusal=0.1"), {"latency_seconds": "0.2-1.5", "deferred_seconds": "3"})
    assert chosen.latency_seconds == (0.2, 1.5)
    assert chosen.deferred_seconds == 3.0
    assert dict(chosen.fault_rates) == {"server_error": 0.05, "refusal": 0.1}


@pytest.mark.parametrize(
    ("faults", "given", "says"),
    [
        (("server_error",), {}, "KIND=RATE"),
        (("no_such_fault=0.1",), {}, "no_such_fault"),
        (("server_error=7",), {}, "from 0 to 1"),
        ((), {"latency_seconds": "soon"}, "LOW-HIGH"),
    ],
)
def test_a_wrong_option_is_a_usage_error(faults: tuple[str, ...], given: dict[str, str], says: str) -> None:
    with pytest.raises(click.UsageError, match=says):
        options(faults, dict(given))


def test_the_welcome_holds_the_lines_of_a_job() -> None:
    text = "\n".join(welcome_lines("http://127.0.0.1:8765"))
    assert 'name = "emulator"' in text
    assert 'base_url = "http://127.0.0.1:8765/v1"' in text
    assert "--provider emulator --base-url http://127.0.0.1:8765/v1" in text
