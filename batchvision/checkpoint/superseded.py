"""Answers that a newer one has replaced: of each row its current answer stays, and whatever is not older than that.

The rule: a row is told from others by 128 bits of hash, in some 60 bytes a stored answer while it is looked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchvision.checkpoint.parts import batches_of
from batchvision.checkpoint.row_keys import packed_ids

#: Places in a part, in order.
Places = NDArray[np.int64]

_ANSWER = np.dtype([("head", "<u8"), ("tail", "<u8")])


def superseded(paths: Sequence[Path], recipe_id: str | None) -> Mapping[Path, Places]:
    """Where in these parts of ``results`` older answers stand than a row's current one: that of the recipe if there is
    one, otherwise the newest. Parts without any are not named."""
    ids, updated, current, rows = bytearray(), list[NDArray[Any]](), list[NDArray[Any]](), list[int]()
    for path in paths:
        before = len(ids)
        for batch in batches_of(path, ("row_id", "recipe_id", "updated_at")):
            ids += packed_ids(batch["row_id"])
            updated.append(_whole_numbers(batch["updated_at"].cast(pa.int64())))
            current.append(_whole_numbers(pc.equal(batch["recipe_id"], recipe_id or "").cast(pa.int64())))
        rows.append((len(ids) - before) // _ANSWER.itemsize)
    if not sum(rows):
        return {}
    older = _older(np.frombuffer(ids, _ANSWER), np.concatenate(current), np.concatenate(updated))
    ends = list(accumulate(rows))
    cut = np.split(older, np.searchsorted(older, ends[:-1]))
    return {
        path: places - (end - count)
        for path, places, end, count in zip(paths, cut, ends, rows, strict=True)
        if len(places)
    }


def _whole_numbers(column: pa.Array) -> NDArray[Any]:
    return np.asarray(pc.fill_null(column, 0).to_numpy(zero_copy_only=False))


def _older(ids: NDArray[Any], current: NDArray[Any], updated: NDArray[Any]) -> Places:
    """The places, in order, of answers older than their row's current one."""
    order = np.lexsort((updated, current, ids["tail"], ids["head"]))
    of_row = ids[order]
    is_last = np.append(of_row[1:] != of_row[:-1], True)
    row = np.cumsum(is_last) - is_last
    newest = updated[order][is_last][row]
    return np.sort(order[updated[order] < newest])
