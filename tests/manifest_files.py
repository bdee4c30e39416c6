"""Open manifests of tests by their paths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from batchvision.manifest.inputs import LocalInput
from batchvision.manifest.parquet import ParquetManifest, Piece, pieces_below


def opened(path: Path, needed: Mapping[str, str]) -> ParquetManifest:
    """The Parquet file or folder at ``path``."""
    pieces = pieces_below(path) if path.is_dir() else [Piece(LocalInput(path), {})]
    return ParquetManifest(path.name, pieces, needed)
