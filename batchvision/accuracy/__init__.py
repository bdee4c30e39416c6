"""How right the answers are, where right answers are known."""

from batchvision.accuracy.comparing import Decision, RightRows, choose, paired
from batchvision.accuracy.looks import chunk_sizes, upper_bound
from batchvision.accuracy.measures import Accuracy, LabelMeasures, Proportion, measure, wilson
from batchvision.accuracy.review_file import REVIEW_COLUMNS, SampleKind, guarded, unguarded
from batchvision.accuracy.words import accuracy_words

__all__ = [
    "REVIEW_COLUMNS",
    "Accuracy",
    "Decision",
    "LabelMeasures",
    "Proportion",
    "RightRows",
    "SampleKind",
    "accuracy_words",
    "choose",
    "chunk_sizes",
    "guarded",
    "measure",
    "paired",
    "unguarded",
    "upper_bound",
    "wilson",
]
