"""Read stored raw answers again after [answer] changed. Sends nothing."""

from batchvision.commands.reparse.reading import NoAnswerReason
from batchvision.commands.reparse.reparsing import Reparsed, recipes_alike, reparse

__all__ = ["NoAnswerReason", "Reparsed", "recipes_alike", "reparse"]
