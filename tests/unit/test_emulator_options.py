"""Options are checked when they are made."""

from __future__ import annotations

import subprocess
import sys

import pytest

import batchvision.emulator as emulator
from batchvision.emulator import EmulatorOptions, Face


def test_the_package_exports_its_public_names_and_imports_servers_late() -> None:
    assert all(getattr(emulator, name) is not None for name in emulator.__all__)
    code = (
        "import sys; from batchvision.emulator import EmulatorOptions, FaultKind; EmulatorOptions(); "
        "sys.exit(int('aiohttp' in sys.modules or 'PIL' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_key_is_any_unless_one_is_named_and_times_are_seconds_or_a_span() -> None:
    options = EmulatorOptions(latency_seconds=(0.1, 0.2), deferred_seconds=1)
    assert options.key is None
    assert options.latency_seconds == (0.1, 0.2)
    assert options.deferred_seconds == 1.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fault_rates": {"server_eror": 0.1}}, "did you mean server_error"),
        ({"fault_rates": {"empty": 1.5}}, "from 0 to 1"),
        ({"fault_rates": {"empty": 0.6, "html": 0.6}}, "more than 1"),
        ({"latency_seconds": (2, 1)}, "shortest, longest"),
        ({"latency_seconds": -1}, "give seconds"),
        ({"requests_per_minute": 0}, "above 0"),
        ({"requests_per_minut": 5}, "did you mean requests_per_minute"),
        ({"port": 5}, "no option that can be changed"),
    ],
)
def test_a_wrong_option_names_a_valid_value(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EmulatorOptions().changed(changes)


def test_changed_options_leave_the_old_ones_as_they_were() -> None:
    old = EmulatorOptions(port=0, fault_rates={"503": 0.5})
    new = old.changed({"latency_seconds": [0, 1]})
    assert old.latency_seconds == 0.0
    assert new.latency_seconds == (0.0, 1.0)
    assert dict(new.fault_rates) == {"unavailable": 0.5}


def test_each_face_has_its_path() -> None:
    assert [face.path for face in Face] == ["/xai/v1", "/openrouter/api/v1", "/openai/v1"]
