"""Price lists, estimates of requests, and sums of the cost of attempts. Costs are integers: 1 USD = 10^10 ticks."""

from batchvision.money.estimator import Estimator
from batchvision.money.price_lists import FRESH_FOR, ListedPrices, PriceQuote, quote, recall, remember
from batchvision.money.spending import (
    NO_ANSWER_KINDS,
    NO_MODEL,
    UNCLEAR,
    Kind,
    Spending,
    Sum,
    is_of_unknown_cost,
)

__all__ = [
    "FRESH_FOR",
    "NO_ANSWER_KINDS",
    "NO_MODEL",
    "UNCLEAR",
    "Estimator",
    "Kind",
    "ListedPrices",
    "PriceQuote",
    "Spending",
    "Sum",
    "is_of_unknown_cost",
    "quote",
    "recall",
    "remember",
]
