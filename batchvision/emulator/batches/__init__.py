"""Files and batches of the OpenAI and the xAI face.

``lines`` parses the requests of a batch, ``batch`` holds one batch and its states, ``service`` owns all batches and
moves them with the clock. ``files`` keeps uploads. ``openai_face`` and ``xai_face`` hold the HTTP handlers.
"""

from batchvision.emulator.batches.openai_face import openai_batch_routes
from batchvision.emulator.batches.service import BatchService
from batchvision.emulator.batches.xai_face import xai_batch_routes

__all__ = ["BatchService", "openai_batch_routes", "xai_batch_routes"]
