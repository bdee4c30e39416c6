"""Draws the sample images that the jobs beside this file read: jobs/photos/ and its manifest photos.csv."""

from pathlib import Path

from batchvision.samples import draw_samples

if __name__ == "__main__":
    print(draw_samples(Path(__file__).parent / "photos"))
