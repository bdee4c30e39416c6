"""Draws the images of the ready jobs and their manifest: python jobs/draw_samples.py [FOLDER], or into jobs/samples."""

from __future__ import annotations

import sys
from pathlib import Path

from batchvision.samples import draw_samples

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "samples"
    print(draw_samples(folder))
