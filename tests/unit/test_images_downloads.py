"""Each image is downloaded once a run, and results are remembered within bounds."""

from __future__ import annotations

import anyio
import pytest

from batchvision.errors import ImageForbidden, ImageUnreachable, ImageUnreadable, RowFault
from batchvision.images.downloads import Downloads
from batchvision.records import Payload

pytestmark = pytest.mark.anyio


def payload(content: bytes = b"x") -> Payload:
    return Payload("url:a", "a", "", "0" * 64, inline=content, media_type="image/jpeg")


class Host:
    """Counts; answers when the gate is open."""

    def __init__(self, answer: Payload | RowFault | None = None) -> None:
        self.answer = payload() if answer is None else answer
        self.asked = 0
        self.gate = anyio.Event()

    async def __call__(self) -> Payload:
        self.asked += 1
        await self.gate.wait()
        if isinstance(self.answer, RowFault):
            raise self.answer
        return self.answer

    def opened(self) -> Host:
        self.gate.set()
        return self


# ---------------------------------------------------------------------------------- one download each


async def test_callers_of_the_same_image_share_one_download_during_and_after_it() -> None:
    downloads, host, got = Downloads(), Host(), list[Payload]()

    async def ask() -> None:
        got.append(await downloads.get("a", host))

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        host.opened()
    await ask()
    assert len(got) == 11
    assert host.asked == 1


async def test_a_second_caller_downloads_after_the_first_is_cancelled() -> None:
    downloads, host, got = Downloads(), Host(), list[Payload]()
    first = anyio.CancelScope()

    async def ask(scope: anyio.CancelScope) -> None:
        with scope:
            got.append(await downloads.get("a", host))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, first)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(ask, anyio.CancelScope())
        await anyio.wait_all_tasks_blocked()
        first.cancel()
        await anyio.wait_all_tasks_blocked()
        host.opened()
    assert host.asked == 2
    assert len(got) == 1


@pytest.mark.parametrize(
    ("fault", "asked"), [(ImageUnreadable("no image"), 1), (ImageForbidden("inside"), 1), (ImageUnreachable("503"), 2)]
)
async def test_a_fault_of_the_content_is_remembered_and_a_failed_connection_is_not(fault: RowFault, asked: int) -> None:
    downloads, host = Downloads(), Host(fault).opened()
    for _ in range(2):
        with pytest.raises(type(fault), match=fault.message):
            await downloads.get("a", host)
    assert host.asked == asked


async def test_the_oldest_results_are_forgotten_and_very_large_ones_are_not_kept() -> None:
    downloads = Downloads(remembered_bytes=100_000)
    hosts = {name: Host(payload(bytes(40_000))).opened() for name in "abc"} | {
        "L": Host(payload(bytes(60_000))).opened()
    }
    for name in ("a", "b", "a", "c", "a", "b", "L", "L"):
        await downloads.get(name, hosts[name])
    assert {name: host.asked for name, host in hosts.items()} == {"a": 1, "b": 2, "c": 1, "L": 2}
