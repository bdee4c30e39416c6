"""A key that expires while deferred tickets are open: polls go on under the new one."""

from __future__ import annotations

import anyio
import httpx
from fake_provider import FakeProvider, Reply, error

START = 1_000.0


class Doorkeeper(FakeProvider):
    """Takes a key for so long after it was first seen."""

    def __init__(self, good_seconds: float, **options: float) -> None:
        super().__init__(**options)
        self._good_seconds = good_seconds
        self._first_seen: dict[str, float] = {}
        self.refused = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        key = request.headers["authorization"]
        since = self._first_seen.setdefault(key, anyio.current_time())
        if anyio.current_time() - since <= self._good_seconds:
            return await super().handle_async_request(request)
        self.refused += 1
        refusal: Reply = error(401, "token expired")
        return httpx.Response(refusal.status, json=refusal.document)


def test_polls_and_submissions_go_on_under_a_new_key(job_runs):
    job_runs.rows(20)
    script = 'echo x >> calls; echo "secret-token-number-$(wc -l < calls | tr -d " ")"\n'
    (job_runs.folder / "key.sh").write_text(script)
    provider = Doorkeeper(100, ticket_seconds=250)
    command = ["sh", str(job_runs.folder / "key.sh")]
    summary = job_runs.run(provider, delivery__lane="deferred", provider__api_key_command=command)
    assert (summary.exit_code, summary.rows_completed, summary.tickets_open) == (0, 20, 0)
    assert len(provider.asked) == 20
    assert provider.refused >= 1
    assert len((job_runs.folder / "calls").read_text().split()) == 3


def test_a_key_that_is_never_renewed_keeps_the_tickets(job_runs):
    job_runs.rows(20)
    provider = Doorkeeper(100, ticket_seconds=250)
    summary = job_runs.run(provider, delivery__lane="deferred", provider__api_key_command=["echo", "secret-token-same"])
    assert (summary.exit_code, summary.stop_reason, summary.tickets_open) == (5, "authentication_failed", 20)
    assert "printed the same key" in (summary.message or "")
