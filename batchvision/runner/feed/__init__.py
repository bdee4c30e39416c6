"""From the manifest to the rows to do: a survey of the whole manifest before anything is sent, then a stream.

Rule: keys are computed over columns. A row that is done, kept failed or in flight never becomes a ``Row`` object.

``surveying``: structure, ids, number of rows. ``keying``: row_ids, prompts and keys. ``batch_images``: image cells and
their stamps. ``checking``: invalid rows. ``selection``: the rows that a run is for. ``work``: the stream. ``stretch``:
a part of it. ``changes``: rows that a run would buy again. ``by_content``: rows that only look new. ``local_images``:
are the image files there? ``kept``: changed cells of answered rows.
"""

from batchvision.runner.feed.by_content import ByContent
from batchvision.runner.feed.changes import ChangeCounter, Changes
from batchvision.runner.feed.kept import count_other_cells, kept_cells_of, kept_now
from batchvision.runner.feed.keying import skip_key_of
from batchvision.runner.feed.local_images import LocalImages
from batchvision.runner.feed.selection import Selection
from batchvision.runner.feed.stretch import FeedBatch, PassCounts, Stretch, Tally
from batchvision.runner.feed.surveying import Survey, survey
from batchvision.runner.feed.work import KnownRows, NoKnownRows, drawn, feed, stretches

__all__ = [
    "ByContent",
    "ChangeCounter",
    "Changes",
    "FeedBatch",
    "KnownRows",
    "LocalImages",
    "NoKnownRows",
    "PassCounts",
    "Selection",
    "Stretch",
    "Survey",
    "Tally",
    "count_other_cells",
    "drawn",
    "feed",
    "kept_cells_of",
    "kept_now",
    "skip_key_of",
    "stretches",
    "survey",
]
