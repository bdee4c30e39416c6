"""A run of the batch lane that kills itself at one HTTP call: ``python batch_victim.py JOB CALL before|after``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import anyio

from batchvision import Job, run_async
from batchvision.http import LeanTransport, httpx
from batchvision.runner import RunDependencies


class Deadly(httpx.AsyncBaseTransport):
    """Kills the process before the call leaves, or after its answer came. Looks and lists count as one call each."""

    def __init__(self, call: int, when: str) -> None:
        self._transport = LeanTransport()
        self._left = call
        self._when = when

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._left -= 1
        is_last = self._left == 0  # other calls may follow before the answer comes
        if is_last and self._when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        response = await self._transport.handle_async_request(request)
        if is_last:
            await response.aread()
            os.kill(os.getpid(), signal.SIGKILL)
        return response


async def main(job: Path, call: int, when: str) -> None:
    environ = {"XAI_API_KEY": "emulator-key", "OPENAI_API_KEY": "emulator-key"}
    await run_async(Job.load(job), environ=environ, dependencies=RunDependencies(transport=Deadly(call, when)))


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
