"""How right the answers are, where right answers are known."""

from batchvision.commands.accuracy.comparing import Decision, RightRows, choose, paired
from batchvision.commands.accuracy.measures import Accuracy, LabelMeasures, Proportion, measure, wilson

__all__ = [
    "Accuracy",
    "Decision",
    "LabelMeasures",
    "Proportion",
    "RightRows",
    "choose",
    "measure",
    "paired",
    "wilson",
]
