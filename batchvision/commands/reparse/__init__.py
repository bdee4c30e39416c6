"""Read stored raw answers again after [answer] changed. Sends nothing."""

from batchvision.commands.reparse.reading import NoAnswerReason
from batchvision.commands.reparse.recipes import recipes_alike
from batchvision.commands.reparse.reparsing import Reparsed, reparse

__all__ = ["NoAnswerReason", "Reparsed", "recipes_alike", "reparse"]
