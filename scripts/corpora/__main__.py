"""scripts/corpus: check that each file is sent correctly or fails its row, without a crash, a hang or full memory."""

from __future__ import annotations

import hashlib
import random
import sys
import tempfile
import warnings
from argparse import ArgumentParser
from pathlib import Path

from hostile_images import Fate, bombs, damaged, fate_of, fate_when_damaged, impostors, own_files
from image_checks import Proof, prove

from corpora.gather import download, found
from corpora.speed import compare

FEWEST_FILES = 300
MOST_MIB = 700.0
DAMAGED_BYTES = 200_000  #: larger files are not damaged: the same would be found, slower


def main() -> int:
    parser = ArgumentParser(prog="scripts/corpus", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "batchvision-corpus")
    parser.add_argument("--seed", type=int, default=1, help="of the damages")
    parser.add_argument("--damaged", type=int, default=400, help="how many damaged files")
    parser.add_argument("--images", default="", help='more of the job\'s [images], e.g. "max_side = 512"')
    parser.add_argument("--speed", action="store_true", help="instead: how fast photos are scaled down, and what waits")
    chosen = parser.parse_args()
    if chosen.speed:
        with tempfile.TemporaryDirectory() as folder:
            return 0 if compare(Path(folder)) else 1
    warnings.simplefilter("ignore")  # Pillow's, about the files it judges
    chosen.folder.mkdir(parents=True, exist_ok=True)
    download(chosen.folder)
    files = collect(chosen.folder, chosen.seed, chosen.damaged)
    if chosen.images:  # other settings, other fates: what must not happen stays
        files = {name: (content, Fate.ANY) for name, (content, _) in files.items()}
    with tempfile.TemporaryDirectory() as folder:
        proof = prove(Path(folder), files, timeout=1800, images=chosen.images)
    return report(proof, len(files))


def collect(folder: Path, seed: int, damages: int) -> dict[str, tuple[bytes, Fate]]:
    """Every distinct file, with its expected fate."""
    whole = {name: content for name, content in (*found(folder), *own_files().items()) if content}
    fragile = {name: content for name, content in whole.items() if len(content) <= DAMAGED_BYTES}
    sample = random.Random(seed).sample(sorted(fragile), min(len(fragile), damages))
    broken = dict(damaged({name: fragile[name] for name in sample}, seed, each=1))
    files = {name: (content, fate_of(content)) for name, content in whole.items()}
    files |= {name: (content, fate_when_damaged(content)) for name, content in broken.items()}
    files |= {name: (content, Fate.FAILED) for name, content in impostors().items()}
    files |= {name: (content, Fate.ANY) for name, content in bombs().items()}
    distinct = {hashlib.sha256(content).digest(): name for name, (content, _) in files.items()}
    return {name: files[name] for name in sorted(distinct.values())}


def report(proof: Proof, count: int) -> int:
    print(f"{count} files in {proof.seconds:.1f} s, at most {proof.peak_mib:.0f} MiB with all processes")
    for name, number in (*proof.fates.most_common(), *proof.kinds.most_common()):
        print(f"  {number:6}  {name}")
    print(f"  refused by the provider, not here: {', '.join(proof.refused_by_provider) or 'none'}")
    wrong = list(proof.wrong)
    if count < FEWEST_FILES:
        wrong.append(f"only {count} files: at least {FEWEST_FILES} are wanted")
    if proof.peak_mib > MOST_MIB:
        wrong.append(f"{proof.peak_mib:.0f} MiB at most: {MOST_MIB:.0f} are allowed")
    for sentence in wrong:
        print(f"WRONG: {sentence}")
    print("all as it must be" if not wrong else f"{len(wrong)} are wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
