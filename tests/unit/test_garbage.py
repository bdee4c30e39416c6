"""While a run lasts garbage is looked for rarely; afterwards the process is as it was."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from batchvision.garbage import THRESHOLDS, rarely_collected


def test_a_block_collects_rarely_and_leaves_the_process_as_it_was() -> None:
    before = gc.get_threshold()
    with rarely_collected():
        assert gc.get_threshold() == THRESHOLDS
        assert gc.get_freeze_count() > 0
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)


def test_an_error_inside_changes_nothing_of_that() -> None:
    before = gc.get_threshold()
    with pytest.raises(KeyError), rarely_collected():
        raise KeyError
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)


def test_of_two_runs_at_once_the_last_one_to_end_restores_what_the_first_found() -> None:
    before = gc.get_threshold()
    one, other = rarely_collected(), rarely_collected()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert gc.get_threshold() == THRESHOLDS
    other.__exit__(None, None, None)
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)


def test_the_command_collects_rarely_before_it_imports_what_it_needs() -> None:
    program = (
        "import gc, sys\n"
        "from batchvision.cli import COMMANDS, main\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == COMMANDS['config'].module: print(*gc.get_threshold())\n"
        "sys.meta_path.insert(0, Watch())\n"
        "main(['config', '--help'])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("{} {} {}\n".format(*THRESHOLDS))
