"""The run: from the manifest to the summary (session), the way of one request (exchange), its end (classify)."""

from batchvision.runner.access import access_of
from batchvision.runner.classify import Classifier, shared
from batchvision.runner.counting import (
    CountedRequest,
    ImageCounts,
    RequestCounter,
    RequestReader,
    RequestTotals,
    RowCounts,
    WatchRequest,
    row_index_of,
)
from batchvision.runner.dependencies import RunDependencies
from batchvision.runner.guards import empty_words, missing_words
from batchvision.runner.job_warnings import fallback_warning, system_warning
from batchvision.runner.known_answers import AnswerCheck, has_known_answers, right_answers
from batchvision.runner.prepare import payloads_of
from batchvision.runner.refusing import rebuy_refusals
from batchvision.runner.session import CollectedTickets, Watch, cancel_async, run_async
from batchvision.runner.setup import RunSetup, new_run_id
from batchvision.runner.sharing import shared_budget_path, shared_uses
from batchvision.runner.summary import Left, summarize
from batchvision.runner.wiring import (
    estimator_of,
    forms_of,
    images_of,
    preparer_of,
)

__all__ = [
    "AnswerCheck",
    "Classifier",
    "CollectedTickets",
    "CountedRequest",
    "ImageCounts",
    "Left",
    "RequestCounter",
    "RequestReader",
    "RequestTotals",
    "RowCounts",
    "RunDependencies",
    "RunSetup",
    "Watch",
    "WatchRequest",
    "access_of",
    "cancel_async",
    "empty_words",
    "estimator_of",
    "fallback_warning",
    "forms_of",
    "has_known_answers",
    "images_of",
    "missing_words",
    "new_run_id",
    "payloads_of",
    "preparer_of",
    "rebuy_refusals",
    "right_answers",
    "row_index_of",
    "run_async",
    "shared",
    "shared_budget_path",
    "shared_uses",
    "summarize",
    "system_warning",
]
