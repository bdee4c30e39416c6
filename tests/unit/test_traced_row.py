"""One row passes few functions and files, so that a reader can follow it (``scripts/trace --list`` names them)."""

from __future__ import annotations

import sys
from pathlib import Path

from traced_row import trace

#: 20 functions and 3 files more than before a pacing that processes can share, the figures of a run at work, and redos.
MOST_FUNCTIONS = 239
MOST_FILES = 47


def test_an_online_url_row_passes_few_functions_in_few_files(tmp_path: Path) -> None:
    found = trace(tmp_path)
    names = {Path(path).name for path in found}
    functions, files = sum(map(len, found.values())), len(found)
    sys.stdout.write(f"{functions} functions in {files} files\n")
    assert {"delivery.py", "journal.py", "client.py", "conversation.py"} <= names, "the trace missed the row"
    assert functions <= MOST_FUNCTIONS
    assert files <= MOST_FILES
