"""The shard of a run, as ``--shard`` and the variables of a job array give it."""

from __future__ import annotations

from collections.abc import Mapping

import click

from batchvision.records import Shard

_FORM = "--shard takes I/N with I from 0 to N-1, e.g. --shard 0/4 ... --shard 3/4, or auto/4 in a job array"


def shard_of(text: str | None, environ: Mapping[str, str]) -> Shard:
    """``2/4``: the third of four slices. ``auto/4``: the slice that the job array gives. Raises UsageError."""
    if text is None:
        return Shard()
    first, _, second = text.partition("/")
    of = int(second) if second.isdecimal() else 0
    if first == "auto" and of:
        return Shard(_array_index(of, environ), of)
    if first.isdecimal() and int(first) < of:
        return Shard(int(first), of)
    raise click.UsageError(f"{_FORM}; got {text!r}.")


def _array_index(of: int, environ: Mapping[str, str]) -> int:
    """The index of this job in its array, counted from 0: of Kubernetes, SLURM or GNU parallel."""
    firsts = {
        "JOB_COMPLETION_INDEX": "0",
        "SLURM_ARRAY_TASK_ID": environ.get("SLURM_ARRAY_TASK_MIN", "0"),
        "PARALLEL_SEQ": "1",
    }
    found = {name: environ[name] for name in firsts if environ.get(name)}
    if not found:
        raise click.UsageError(
            f"--shard auto/{of} takes the index from a job array, and none of {', '.join(firsts)} is set: start it in "
            f"an indexed Job, an array of SLURM or GNU parallel, or give the index, as in --shard 0/{of}."
        )
    if len(found) > 1:
        raise click.UsageError(
            f"--shard auto/{of}: {' and '.join(found)} are both set; give the index, as in --shard 0/{of}."
        )
    name, value = next(iter(found.items()))
    if not (value.isdecimal() and firsts[name].isdecimal()):
        raise click.UsageError(f"--shard auto/{of}: {name} is {value!r}, which is no index.")
    index = int(value) - int(firsts[name])
    if not 0 <= index < of:
        raise click.UsageError(
            f"--shard auto/{of}: {name} is {value}, the index {index} from 0, and the last shard is {of - 1}: give the "
            "array as many jobs as there are shards."
        )
    return index
