"""Image files of other projects, and the proof that they do not harm a run."""
