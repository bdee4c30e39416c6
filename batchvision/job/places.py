"""The files and folders of a job: its manifest, the root of its images, its output and the snapshot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from batchvision.job.files import exists, is_folder, under
from batchvision.job.limits import OutputSection
from batchvision.job.object_urls import local_copy
from batchvision.job.sections import ManifestSection
from batchvision.object_store import OBJECT_STORES, is_object_url

#: The folder in every output that holds its state.
_STATE_FOLDER = ".batchvision"


class JobPlaces(NamedTuple):
    """Absolute paths."""

    manifest_path: Path
    root: Path  #: the folder in which local images must lie
    output_path: Path  #: of an output in an object store: its local copy


def find_places(
    base_dir: Path, manifest: ManifestSection | None, output: OutputSection | None, problems: list[str]
) -> JobPlaces | None:
    """Relative paths are relative to ``base_dir``. Returns ``None`` where a place is missing. Adds to ``problems``."""
    found = _manifest_places(base_dir, manifest, problems) if manifest else None
    target = _output_path(base_dir, output, problems) if output else None
    if output and target and output.snapshot:
        snapshot = snapshot_path(output.snapshot, target, base_dir)
        problems += _snapshot_problems(output.snapshot, snapshot, target, found[0] if found else None)
    return JobPlaces(*found, target) if found and target else None


# ---------------------------------------------------------------------------------- manifest


def _manifest_places(base_dir: Path, section: ManifestSection, problems: list[str]) -> tuple[Path, Path] | None:
    if section.query is not None or is_object_url(section.path):
        return Path(section.path), _root(base_dir, section, problems) or base_dir
    if "://" in section.path:
        problems.append(
            f"manifest.path = {section.path!r}: name a local file or folder, or an object store with "
            f"{', '.join(OBJECT_STORES)}"
        )
        return None
    path = under(base_dir, section.path)
    if not exists(path):
        problems.append(f"manifest.path: there is no manifest at {path}; relative paths are relative to the job file")
    root = _root(base_dir, section, problems)
    if root is not None:
        return path, root
    if is_output(path):
        return path, _root_of_rows(path, problems)
    return path, path if is_folder(path) else path.parent


def _root(base_dir: Path, section: ManifestSection, problems: list[str]) -> Path | None:
    """The local folder that ``manifest.root`` names, if any."""
    if not section.root or is_object_url(section.root):
        return None
    root = under(base_dir, section.root)
    if not is_folder(root):
        problems.append(f"manifest.root: there is no folder {root}; local images must lie in it")
    return root


def _root_of_rows(output: Path, problems: list[str]) -> Path:
    """The root of the images of an output that is a manifest."""
    before = _root_of_output(output)
    if before is None:
        problems.append(f"manifest.path: no run of the output {output} has ended yet; run its job first")
    elif not is_folder(before):
        problems.append(
            f"manifest.path: the images of {output} lay in {before}, and there is no such folder; name their folder "
            "in manifest.root"
        )
    return before or output


def is_output(path: Path) -> bool:
    """Whether a folder is the output of a job."""
    return is_folder(path / _STATE_FOLDER)


def _root_of_output(output: Path) -> Path | None:
    """The root of the images of an output's rows, by its last run."""
    try:
        summary = json.loads((output / "runs" / "latest.json").read_bytes())
        return Path(summary["config"]["manifest"]["root"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def columns_of_output(section: ManifestSection) -> ManifestSection:
    """The section with the columns of an output where the job names none: the same ids and the same images."""
    columns = {"id": ("row_id",), "images": ("image_ref",)}
    return section.model_copy(
        update={name: value for name, value in columns.items() if name not in section.model_fields_set}
    )


# ---------------------------------------------------------------------------------- output


def _output_path(base_dir: Path, section: OutputSection, problems: list[str]) -> Path | None:
    if is_object_url(section.path):
        if "@" in section.path or "?" in section.path:
            problems.append(
                "output.path: the URL of an object store holds no credentials and no options; they come from the "
                "environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL ...)"
            )
        return local_copy(section.path, under(base_dir, section.state_dir) if section.state_dir else None)
    if "://" in section.path:
        problems.append(
            f"output.path = {section.path!r}: name a local folder, or an object store with {', '.join(OBJECT_STORES)}"
        )
        return None
    path = under(base_dir, section.path)
    if exists(path) and not is_folder(path):
        problems.append(f"output.path: {path} is a file; name a folder")
    return path


def snapshot_path(text: str, output: Path, base_dir: Path) -> Path:
    """The snapshot of an output. A name without a folder lies in the output, a path is relative to the job file."""
    return under(output if text == Path(text).name else base_dir, text)


def _snapshot_problems(text: str, path: Path, output: Path, manifest: Path | None) -> list[str]:
    """Why ``path``, as ``text`` names it, cannot be the snapshot of an output."""
    if "://" in text or path.suffix != ".parquet":
        return [f"output.snapshot: {text} is no local .parquet file; write for example current.parquet"]
    if path.is_relative_to(output) and path.parent != output:
        return [f"output.snapshot: {path} lies among the tables of the output; write only a name, as current.parquet"]
    if manifest is not None and (path == manifest or (is_folder(manifest) and path.parent.is_relative_to(manifest))):
        return [f"output.snapshot: {path} would be read as the manifest; write it to another folder"]
    return []
