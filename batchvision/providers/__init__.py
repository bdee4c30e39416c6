"""Dialects of providers: request bodies, answers, errors, usage, limits and tickets. Sans-IO."""

from __future__ import annotations

from batchvision.providers.base import (
    Caching,
    Dialect,
    Gone,
    ModelListing,
    NotReady,
    RateSigns,
    Reading,
    SendOptions,
    TicketEnd,
    caching,
    output_limit,
)
from batchvision.providers.forms import ResponseForm, ResponseForms
from batchvision.providers.registry import dialect
from batchvision.providers.signs import wait_seconds
from batchvision.providers.wire import is_aborted_stream, is_stream, masked_stream

__all__ = [
    "Caching",
    "Dialect",
    "Gone",
    "ModelListing",
    "NotReady",
    "RateSigns",
    "Reading",
    "ResponseForm",
    "ResponseForms",
    "SendOptions",
    "TicketEnd",
    "caching",
    "dialect",
    "is_aborted_stream",
    "is_stream",
    "masked_stream",
    "output_limit",
    "wait_seconds",
]
