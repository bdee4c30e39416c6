"""Writes the sample images that the jobs beside this file read: jobs/photos/ and its manifest photos.csv."""

from pathlib import Path

from batchvision.samples import write_samples

if __name__ == "__main__":
    print(write_samples(Path(__file__).parent / "photos"))
