"""The run: from the manifest to the summary (session), the way of one request (exchange), its end (classify)."""

from batchvision.runner.classify import Classifier, shared
from batchvision.runner.prepare import payloads_of
from batchvision.runner.session import Watch, new_run_id, run, run_async
from batchvision.runner.summary import Left, summarize
from batchvision.runner.wiring import RunDependencies, access_of, estimator_of, fallback_warning, system_warning

__all__ = [
    "Classifier",
    "Left",
    "RunDependencies",
    "Watch",
    "access_of",
    "estimator_of",
    "fallback_warning",
    "new_run_id",
    "payloads_of",
    "run",
    "run_async",
    "shared",
    "summarize",
    "system_warning",
]
