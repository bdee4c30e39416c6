"""A corpus of image files of other projects, and the proof that none of them harms a run."""
