"""The report of an output: values first, then one self-contained HTML page."""

from batchvision.commands.report.collecting import collect
from batchvision.commands.report.comparing import OtherSide
from batchvision.commands.report.page import html_of
from batchvision.commands.report.review_sample import ReviewSample, draw
from batchvision.commands.report.values import Report

__all__ = ["OtherSide", "Report", "ReviewSample", "collect", "draw", "html_of"]
