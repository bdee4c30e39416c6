"""The output of another job as a manifest: its current answers, of the rows that are in its own manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from batchvision.checkpoint import IN_MANIFEST, STATE_FOLDER, Columns, OutputView, read_registry, results_schema
from batchvision.manifest.columns import reject_missing
from batchvision.manifest.inputs import LocalInput, ManifestInput

#: The files that decide what is current.
_FILES = (f"{STATE_FOLDER}/*of*/*", "results/*/*", "failures/*", "runs/latest.json")


@dataclass(frozen=True, slots=True)
class _OutputFile(LocalInput):
    """A file of the other output. The run stops where it changes between two passes."""

    output: Path

    @property
    def name(self) -> str:
        return f"{self.output} ({self.path.relative_to(self.output)})"


class OutputManifest:
    """The rows of ``results``, with all of its columns: ids, answers, costs and kept cells."""

    byte_columns: frozenset[str] = frozenset()

    def __init__(self, output: Path, needed: Mapping[str, str]) -> None:
        """``needed``: column -> the job key that names it. Raises JobInvalid where one is missing."""
        self._output = output
        self.columns = tuple(results_schema(read_registry(output) or Columns()).names)
        reject_missing(needed, self.columns, str(output))
        paths = sorted(path for pattern in _FILES for path in output.glob(pattern) if path.is_file())
        self.inputs: tuple[ManifestInput, ...] = tuple(_OutputFile(path, output) for path in paths)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Raises CheckpointDamaged."""
        view = OutputView(self._output)
        latest = view.latest()
        recipe_id = None if latest is None else latest.recipe_id
        for batch in view.current_results(recipe_id, list(columns), with_in_manifest=True):
            rows = batch.filter(batch[IN_MANIFEST])
            if rows.num_rows:
                yield rows.select(list(columns))
