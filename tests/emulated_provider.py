"""The emulator without its network, for virtual time: the same checks, answers, tokens and bill, in this process.

``rule`` bills images by another rule than the emulator's own, which no client knows. ``restless`` makes models
think: some long, some not at all, whatever the image.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import anyio
from fake_provider import inline, virtual_now
from provider_transports import InMemoryProvider
from simulated_run import UnsyncedDisk

from batchvision.checkpoint import Disk
from batchvision.emulator.answers import count_tokens, make_answer
from batchvision.emulator.bodies import Generated, chat_body
from batchvision.emulator.checks import ParsedRequest, read_request
from batchvision.emulator.options import EmulatorOptions, Face
from batchvision.emulator.pixels import PictureMemory
from batchvision.emulator.pricing import cost_ticks
from batchvision.errors import ConnectionCut
from batchvision.records import RawAnswer
from batchvision.runner.dependencies import RunDependencies

ImageRule = Callable[[int, int], int]

#: How providers might count an image, beside the emulator's tiles.
IMAGE_RULES: Mapping[str, ImageRule | None] = {
    "tiles": None,
    "area": lambda width, height: min(1600, -(-width * height // 750)),
    "patches": lambda width, height: min(1536, -(-width // 32) * -(-height // 32)),
    "flat": lambda width, height: 1120,
}


class EmulatedProvider(InMemoryProvider):
    """A transport. ``bill``: ticks by row, as its prompt echoes it."""

    def __init__(self, *, rule: str = "tiles", restless: float = 0.0, seed: int = 0) -> None:
        self.bill: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.refuses: Callable[[int], bool] = lambda requests: False  #: by how many there were
        self.image_rule = IMAGE_RULES[rule]
        self.cuts: Callable[[int], bool] = lambda requests: False  #: billed, and no answer gets through
        self._restless = restless
        self._seed = seed
        self._options = EmulatorOptions()
        self._memory = PictureMemory()

    def dependencies(self, seed: int = 0, disk: Disk | None = None) -> RunDependencies:
        return RunDependencies(
            now=virtual_now, rng=random.Random(seed), offload=inline, transport=self, disk=disk or UnsyncedDisk()
        )

    @property
    def billed_ticks(self) -> int:
        return self.bill.total()

    async def send(
        self, method: str, path: str, body: bytes, timeout_seconds: float, headers: Mapping[str, str]
    ) -> RawAnswer:
        asked = read_request(Face.XAI, body, self._options, self._memory)
        await anyio.sleep(2.0)
        self.requests[asked.echo] += 1
        headers = {"content-type": "application/json"}
        if self.refuses(self.requests.total()):
            return RawAnswer(400, headers, b'{"code":"invalid-argument","error":"not this one"}', virtual_now())
        generated = self._generated(asked)
        self.bill[asked.echo] += generated.ticks
        if self.cuts(self.requests.total()):
            raise ConnectionCut("cut")
        return RawAnswer(200, headers, chat_body(generated), virtual_now())

    def _generated(self, asked: ParsedRequest) -> Generated:
        if self.image_rule is not None:
            pictures = [seen.picture for seen in asked.images if seen.picture]
            asked = replace(asked, image_tokens=sum(self.image_rule(each.width, each.height) for each in pictures))
        made = make_answer(asked, None)
        tokens = count_tokens(asked, made, self._thought(asked.echo), 0)
        name = f"{asked.echo}-{self.requests[asked.echo]}-{asked.content_hash}"
        return Generated(asked, made, tokens, cost_ticks(asked.model, tokens), name, 0)

    def _thought(self, row: str) -> int:
        if not self._restless:
            return 120
        return round(120 * random.Random(f"{self._seed}:{row}").gammavariate(1 / self._restless, self._restless))
