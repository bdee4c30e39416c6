"""Read the stored answers of one row again. Sends nothing and downloads nothing.

An answer is used only if the row as it is now, hashed under the answer's recipe, has the key of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import NamedTuple

from batchvision.commands.reparse.stored import Stored, StoredAttempt, StoredResult
from batchvision.errors import InvalidAnswer, RowFault
from batchvision.images import ImageFolder, ImageSettings, ImageSource, identity
from batchvision.job import Job
from batchvision.keys import request_key_of
from batchvision.records import (
    Completed,
    Estimate,
    Exchange,
    Intent,
    Lane,
    Payload,
    RawAnswer,
    Request,
    Row,
    Tries,
)
from batchvision.runner import Classifier, payloads_of
from batchvision.runner.feed import skip_key_of


class NoAnswerReason(Enum):
    """Why a row has no answer."""

    NONE = "none"  #: no attempt was answered
    NOT_KEPT = "not_kept"  #: the raw answer was not kept
    CHANGED = "changed"  #: text or images have changed since
    UNFIT = "unfit"  #: no stored answer satisfies [answer]


class ReadRow(NamedTuple):
    """The result for one row: the completed row, or why it has no answer."""

    completed: Completed | None
    why: NoAnswerReason | None = None
    problem: str | None = None  #: why the answer is unfit
    follower: Request | None = None  #: the row's request, if it shared the answer of another row


class Reader:
    """Reads stored answers under one job."""

    def __init__(self, job: Job, classifier: Classifier, run_id: str, now: datetime) -> None:
        self._job = job
        self._classifier = classifier
        self._run_id = run_id
        self._now = now
        # the identity of a URL needs no download
        self._images = ImageSource(
            ImageFolder(job.root), ImageSettings(job.recipe.images, "url", job.manifest.image_identity)
        )

    async def read(self, row: Row, stored: Stored) -> ReadRow:
        """The newest stored answer of ``row`` that satisfies the job."""
        answered = [attempt for attempt in stored.attempts if attempt.was_answered]
        kept = [attempt for attempt in answered if attempt.raw_answer is not None]
        images = _RowImages(self._job, self._images, row, stored.results)
        if not answered:
            return ReadRow(None, NoAnswerReason.NONE, follower=await self._follower(row, stored, images))
        if not kept:
            return ReadRow(None, NoAnswerReason.NOT_KEPT)
        problem: str | None = None
        is_same = False
        for attempt in sorted(kept, key=lambda each: each.received_at or each.sent_at, reverse=True):
            payloads = await images.asked_with(attempt.request_key, attempt.recipe_id)
            if payloads is None:
                continue
            is_same = True
            completed, reason = self._judged(row, attempt, payloads, stored.attempts)
            if completed is not None:
                return ReadRow(completed)
            problem = problem or reason
        return ReadRow(None, NoAnswerReason.UNFIT if is_same else NoAnswerReason.CHANGED, problem)

    async def _follower(self, row: Row, stored: Stored, images: _RowImages) -> Request | None:
        for result in stored.results.values():
            payloads = await images.asked_with(result.request_key, result.recipe_id)
            if payloads is not None:
                return Request(
                    row_id=row.row_id,
                    request_key=self._key(row, payloads),
                    skip_key=row.skip_key,
                    messages=b"",
                    image_ref=tuple(payload.reference for payload in payloads),
                    image_sha256=tuple(payload.sha256 for payload in payloads),
                    keep=row.keep,
                    estimate=Estimate(0, None, None),
                )
        return None

    def _key(self, row: Row, payloads: list[Payload]) -> str:
        return request_key_of(self._job.recipe.recipe_id, row.prompt, payloads)

    def _judged(
        self, row: Row, attempt: StoredAttempt, payloads: list[Payload], attempts: list[StoredAttempt]
    ) -> tuple[Completed | None, str | None]:
        behind = [each for each in attempts if each.request_key == attempt.request_key]
        received_at = attempt.received_at or attempt.sent_at
        raw = RawAnswer(attempt.http_status or 200, {}, (attempt.raw_answer or "").encode(), received_at)
        intent = Intent(
            exchange_id="",
            row_id=row.row_id,
            request_key=self._key(row, payloads),
            recipe_id=self._job.recipe.recipe_id,
            skip_key=row.skip_key,
            run_id=self._run_id,
            lane=Lane(attempt.lane),
            provider=attempt.provider,
            model_requested=self._job.recipe.model,
            attempt=max(each.attempt for each in behind),
            tries=Tries(),
            bound_ticks=None,
            cost_before_ticks=0,
            runs_failed=0,
            sent_at=attempt.sent_at,
            image_ref=tuple(payload.reference for payload in payloads),
            image_sha256=tuple(payload.sha256 for payload in payloads),
            keep=dict(zip((column.name for column in self._job.keep_columns), row.keep, strict=True)),
        )
        classification = self._classifier.classify(Exchange(intent, answer=raw))
        if not isinstance(classification.outcome, Completed):
            return None, classification.error.message if isinstance(classification.error, InvalidAnswer) else None
        return self._published(classification.outcome, attempt, sum(each.cost_ticks or 0 for each in behind)), None

    def _published(self, completed: Completed, attempt: StoredAttempt, row_ticks: int) -> Completed:
        """The row as it is published. Under a new request_key the answer costs nothing and its attempt keeps the old
        key.

        Under its own request_key the row is unchanged.
        """
        is_own = completed.request_key == attempt.request_key
        usage = completed.answer.usage._replace(
            cost_ticks=attempt.cost_ticks if is_own else 0,
            cost_source=attempt.cost_source or "unknown" if is_own else "cached",
        )
        answer = completed.answer._replace(usage=usage, provider_request_id=attempt.provider_request_id)
        return completed._replace(answer=answer, row_cost_ticks=row_ticks, updated_at=self._now)


class _RowImages:
    """The images of one row as they are now, read only where the tables do not know them."""

    def __init__(self, job: Job, images: ImageSource, row: Row, results: Mapping[str, StoredResult]) -> None:
        self._job = job
        self._images = images
        self._row = row
        self._results = results
        self._read: list[Payload] | None = None
        self._is_unreadable = False

    async def asked_with(self, key: str, recipe_id: str) -> list[Payload] | None:
        """The row's images if the request with this key asked for them and this text, otherwise ``None``."""
        known = self._known(key, recipe_id)
        if known is not None and self._are_of(key, recipe_id, known):
            return known
        payloads = await self._payloads()
        return payloads if payloads is not None and self._are_of(key, recipe_id, payloads) else None

    def _are_of(self, key: str, recipe_id: str, payloads: list[Payload]) -> bool:
        return request_key_of(recipe_id, self._row.prompt, payloads) == key

    def _known(self, key: str, recipe_id: str) -> list[Payload] | None:
        """By the table of results: paths, sizes and times that have not changed since spare the reading."""
        result, row = self._results.get(key), self._row
        if result is None or len(result.image_ref) != len(row.images):
            return None
        if skip_key_of(row, self._job, recipe_id) != result.skip_key:
            return None
        mode = self._job.manifest.image_identity
        stored = zip(row.images, result.image_ref, result.image_sha256, strict=True)
        return [Payload(identity(ref, mode, sha256), shown, ref.slot, sha256) for ref, shown, sha256 in stored]

    async def _payloads(self) -> list[Payload] | None:
        if self._read is None and not self._is_unreadable:
            skips = self._job.manifest.on_bad_image == "skip_image"
            try:
                self._read = await payloads_of(self._images, self._row, skip_bad_images=skips)
            except RowFault:
                self._is_unreadable = True
        return self._read
