"""Dialects of providers: request bodies, answers, errors, usage, limits, tickets and batches. Sans-IO."""

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
from batchvision.providers.batch import BatchDialect
from batchvision.providers.batch_results import BatchResult, ResultsReader
from batchvision.providers.batch_values import (
    BatchCall,
    BatchCounts,
    BatchLimits,
    BatchListing,
    BatchLook,
    BatchRefusal,
    BatchRefusalKind,
    BatchState,
    Chunk,
    FilePart,
    LineSize,
    RequestListing,
    chunks,
)
from batchvision.providers.forms import ResponseForm, ResponseForms
from batchvision.providers.registry import batch_dialect, dialect
from batchvision.providers.signs import wait_seconds
from batchvision.providers.wire import is_aborted_stream, is_stream, masked_stream

__all__ = [
    "BatchCall",
    "BatchCounts",
    "BatchDialect",
    "BatchLimits",
    "BatchListing",
    "BatchLook",
    "BatchRefusal",
    "BatchRefusalKind",
    "BatchResult",
    "BatchState",
    "Caching",
    "Chunk",
    "Dialect",
    "FilePart",
    "Gone",
    "LineSize",
    "ModelListing",
    "NotReady",
    "RateSigns",
    "Reading",
    "RequestListing",
    "ResponseForm",
    "ResponseForms",
    "ResultsReader",
    "SendOptions",
    "TicketEnd",
    "batch_dialect",
    "caching",
    "chunks",
    "dialect",
    "is_aborted_stream",
    "is_stream",
    "masked_stream",
    "output_limit",
    "wait_seconds",
]
