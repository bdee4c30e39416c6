"""The sample images of the demo. They ship with the package, so that the demo needs no network."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

MANIFEST_NAME = "photos.csv"


def write_samples(folder: Path) -> Path:
    """Copy the samples and their manifest into ``folder``, which is made if needed. Returns the manifest's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for sample in files("batchvision").joinpath("sample_images").iterdir():
        (folder / sample.name).write_bytes(sample.read_bytes())
    return folder / MANIFEST_NAME
