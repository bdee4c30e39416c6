"""Tokens and cost a request is likely, and at most, to need; learned from usage. Serves pacing, money and the plan."""

from batchvision.estimate.estimator import Estimator

__all__ = ["Estimator"]
