"""A first job file for a folder of images. Existing files are never replaced."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from batchvision.errors import ImageUnreadable, JobInvalid
from batchvision.images import ImageFormat, examine, sniff
from batchvision.job import checked_key
from batchvision.manifest import listed_folder
from batchvision.ticks import built_in
from batchvision.wording import counted, size_text

#: Images that are read for their width and height.
MEASURED_IMAGES = 50
#: A larger file is not read.
MOST_MEASURED_BYTES = 64 * 1024 * 1024
#: More sub-folders than this are no labels.
MOST_LABELS = 100
KEY_MODE = 0o600
_HEAD_BYTES = 256


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """The images of a folder. ``labels``: names of sub-folders, if each image lies in one of several.

    ``longest_side``: in pixels, of the measured images; ``None`` where no size is known.
    """

    images: int
    formats: Mapping[str, int]
    smallest_bytes: int
    largest_bytes: int
    longest_side: int | None
    labels: tuple[str, ...]

    def words(self) -> str:
        formats = ", ".join(f"{count:,} {name}" for name, count in self.formats.items())
        sizes = f"{size_text(self.smallest_bytes)} to {size_text(self.largest_bytes)}"
        side = "" if self.longest_side is None else f", sides up to {self.longest_side:,} pixels"
        return f"{counted(self.images, 'image')} ({formats}), {sizes}{side}"


def facts_of(folder: Path) -> FolderFacts:
    """Look at the images below ``folder``. Raises JobInvalid where there is no folder or no image."""
    if not folder.is_dir():
        raise JobInvalid(f"{folder} is no folder: name one that holds images.")
    names: list[str] = listed_folder(folder).ids.to_pylist()
    if not names:
        raise JobInvalid(f"no image was found in {folder}; looked for {', '.join(ImageFormat)}, by content.")
    sizes = [(folder / name).stat().st_size for name in names]
    formats = Counter(_format_of(folder / name) for name in names)
    step = -(-len(names) // MEASURED_IMAGES)
    sides = [_longest_side(folder / name) for name in names[::step]]
    return FolderFacts(
        images=len(names),
        formats=dict(formats.most_common()),
        smallest_bytes=min(sizes),
        largest_bytes=max(sizes),
        longest_side=max((side for side in sides if side is not None), default=None),
        labels=_labels(names),
    )


def _labels(names: list[str]) -> tuple[str, ...]:
    parts = [PurePosixPath(name).parts for name in names]
    if any(len(each) < 2 for each in parts):
        return ()
    found = sorted({each[0] for each in parts})
    return tuple(found) if 2 <= len(found) <= MOST_LABELS else ()


def _format_of(path: Path) -> str:
    with path.open("rb") as file:
        found = sniff(file.read(_HEAD_BYTES))
    return "unknown" if found is None else found.value


def _longest_side(path: Path) -> int | None:
    if path.stat().st_size > MOST_MEASURED_BYTES:
        return None
    try:
        header = examine(path.read_bytes())
    except ImageUnreadable:
        return None
    return max(header.width or 0, header.height or 0) or None


# ---------------------------------------------------------------------------------- files


def job_name(folder: Path) -> str:
    """The folder's name in the letters of a job name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name).strip("-_") or "images"


def job_text(folder: Path, facts: FolderFacts, provider: str, model: str, key_file: str | None) -> str:
    """The content of a job file in the working directory."""
    whole, here = folder.resolve(), Path.cwd().resolve()
    where = whole.relative_to(here) if whole.is_relative_to(here) else whole
    name = job_name(folder)
    key = "" if key_file is None else f"api_key_file = {_quoted(key_file)}\n"
    cap = "# " if built_in(provider, model) is None else ""  # a cap needs prices
    return f"""\
# {facts.words()}
name = {_quoted(name)}

[manifest]
path = {_quoted(f"{where}/")}      # every image below this folder is a row
id = "id"
images = ["image"]

{_question(facts.labels)}
[provider]
name = {_quoted(provider)}
model = {_quoted(model)}
{key}
[provider.parameters]
max_tokens = 1000                 # of an answer: without it the cost has no upper bound

[limits]
{cap}max_cost_usd = 5.0                # all runs together stop here: raise it after `batchvision plan`

[output]
path = {_quoted(f"out/{name}")}
"""


def _question(labels: tuple[str, ...]) -> str:
    if not labels:
        return '[prompt]\nuser = "Describe this image in one sentence."\n'
    lines = "".join(f"  {_quoted(label)},\n" for label in labels)
    return (
        '[prompt]\nuser = "Which label fits this image best?"\n\n'
        f"[answer]\n# the names of the sub-folders\nlabels = [\n{lines}]\n"
    )


def _quoted(text: str) -> str:
    """A TOML string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def write_key(path: Path, text: str) -> None:
    """Write a provider's key to a new file that only its owner can read. Raises JobInvalid."""
    checked_key(text, "the typed text")
    write_new(path, text.strip() + "\n", KEY_MODE)


def write_new(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a file that does not exist yet. Raises JobInvalid."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise JobInvalid(there_already(path)) from None
    except OSError as fault:
        raise JobInvalid(
            f"{path} cannot be written: {fault.strerror}. Go to a folder of your own and try again."
        ) from fault


def there_already(path: Path) -> str:
    return f"{path} is there already and is not replaced: edit it, or move it away first."
