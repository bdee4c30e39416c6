"""How right the answers are, where right answers are known."""

from batchvision.accuracy.comparing import Decision, RightRows, choose, paired
from batchvision.accuracy.measures import Accuracy, LabelMeasures, Proportion, measure, wilson
from batchvision.accuracy.words import accuracy_words

__all__ = [
    "Accuracy",
    "Decision",
    "LabelMeasures",
    "Proportion",
    "RightRows",
    "accuracy_words",
    "choose",
    "measure",
    "paired",
    "wilson",
]
