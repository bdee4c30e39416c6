"""From the manifest to the rows that are to do: one survey of all of it before anything is sent, then a stream.

Rule: keys are computed over columns, and a row that is done, kept failed or in flight never becomes a ``Row`` object.
survey (structure, ids, count) · keying (row_ids, texts, keys, column by column) · picture (image cells and their
stamps) · selection (which rows are wanted) · work (the stream) · stretch (a stretch of it, as columns and as rows) ·
changes (what a pass would buy again) · by_content (a row that only looks new) · local_images (are they there at all).
"""

from batchvision.runner.feed.by_content import ByContent
from batchvision.runner.feed.changes import ChangeCounter, Changes
from batchvision.runner.feed.kept import KeptNow, count_other_cells, kept_cells_of, kept_now
from batchvision.runner.feed.keying import skip_key_of
from batchvision.runner.feed.local_images import LocalImages
from batchvision.runner.feed.selection import Selection
from batchvision.runner.feed.stretch import FeedBatch, Stretch, Tally
from batchvision.runner.feed.surveying import Survey, survey
from batchvision.runner.feed.work import KnownRows, NoKnownRows, drawn, feed, stretches

__all__ = [
    "ByContent",
    "ChangeCounter",
    "Changes",
    "FeedBatch",
    "KeptNow",
    "KnownRows",
    "LocalImages",
    "NoKnownRows",
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
