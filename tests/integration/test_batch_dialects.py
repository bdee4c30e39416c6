"""The batch dialects against the emulator's faces: from the input file to each answer, and after lost answers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from emulated_batches import chat_body

from batchvision.emulator import Face, RunningEmulator, start_in_thread
from batchvision.errors import AnswerCutShort, RequestRejected
from batchvision.http import Endpoint, FileUpload, LeanTransport, ProviderClient
from batchvision.keys import canonical_json
from batchvision.providers import (
    BatchCall,
    BatchDialect,
    BatchLook,
    BatchRefusal,
    BatchRefusalKind,
    BatchResult,
    BatchState,
    batch_dialect,
    chunks,
    dialect,
)
from batchvision.providers import LineSize as Size
from batchvision.records import RawAnswer
from batchvision.secrets import Secret, Secrets
from batchvision.ticks import BATCH, Prices, with_cost

DAY = timedelta(days=1)
PRICES = Prices(12_500_000_000, 2_000_000_000, 25_000_000_000, batch_percent=50)


class Sender:
    """Sends the calls of one dialect to its face."""

    def __init__(self, emulator: RunningEmulator, face: Face) -> None:
        self.batches: BatchDialect = batch_dialect(dialect(face.value))
        headers = {"Authorization": f"Bearer {emulator.key}"}
        self.http = httpx.Client(base_url=emulator.base_url(face), headers=headers, timeout=60)

    def send(self, call: BatchCall, content: bytes = b"") -> RawAnswer:
        headers = {"Content-Type": "application/json"} if call.json is not None else {}
        body = call.json
        if call.file is not None:
            headers, body = {"Content-Type": call.file.content_type}, call.file.head + content + call.file.tail
        response = self.http.request(call.method, call.path, content=body, headers=headers)
        return RawAnswer(response.status_code, dict(response.headers), response.content, datetime.now(UTC))

    def uploaded(self, rows: dict[str, str], name: str = "rows.jsonl") -> str:
        content = b"".join(self.batches.line(our_id, body(text)) for our_id, text in rows.items())
        file = self.batches.read_uploaded(self.send(self.batches.upload(name, DAY), content))
        assert isinstance(file, str)
        return file

    def created(self, name: str, file: str | None = None) -> BatchLook:
        found = self.batches.read_created(self.send(self.batches.create(name, file)))
        assert isinstance(found, BatchLook)
        return found

    def look(self, batch_id: str) -> BatchLook:
        found = self.batches.read_look(self.send(self.batches.look(batch_id)))
        assert isinstance(found, BatchLook)
        return found

    def results(self, look: BatchLook) -> dict[str, BatchResult]:
        found: dict[str, BatchResult] = {}
        calls = list(self.batches.results(look))
        while calls:
            raw = self.send(calls.pop(0))
            assert raw.status == 200
            reader = self.batches.results_reader(raw.received_at)
            for at in range(0, len(raw.body), 1000):
                found.update({each.our_id: each for each in reader.feed(raw.body[at : at + 1000])})
            found.update({each.our_id: each for each in reader.end()})
            assert reader.problem is None
            if reader.next_page is not None:
                calls += self.batches.results(look, reader.next_page)
        return found


def body(text: str, model: str = "grok-4.3") -> bytes:
    return canonical_json(chat_body(text, model=model)).encode()


@pytest.fixture
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(batch_validation_seconds=100.0, batch_seconds=1000.0) as running:
        yield running


@pytest.fixture(params=[Face.OPENAI, Face.XAI])
def sender(request: pytest.FixtureRequest, emulator: RunningEmulator) -> Iterator[Sender]:
    found = Sender(emulator, request.param)
    with found.http:
        yield found


@pytest.fixture
def xai(emulator: RunningEmulator) -> Iterator[Sender]:
    found = Sender(emulator, Face.XAI)
    with found.http:
        yield found


@pytest.fixture
def openai(emulator: RunningEmulator) -> Iterator[Sender]:
    found = Sender(emulator, Face.OPENAI)
    with found.http:
        yield found


def test_a_file_goes_through_all_states_and_each_row_gets_its_own_answer(
    sender: Sender, emulator: RunningEmulator
) -> None:
    ids = [f"run-1_{number}" for number in range(1200)]
    file = sender.uploaded({our_id: f"[[echo:{our_id}]]" for our_id in ids})
    batch = sender.created("run-1.0001", file)
    seen = [batch.state]
    for seconds in (101, 500, 500):
        emulator.advance(seconds)
        seen.append(sender.look(batch.batch_id).state)
    assert seen == [BatchState.PREPARING, BatchState.RUNNING, BatchState.RUNNING, BatchState.ENDED]
    ended = sender.look(batch.batch_id)
    assert (ended.name, ended.input_file, ended.counts.succeeded, ended.counts.pending) == (
        "run-1.0001",
        file,
        1200,
        0,
    )
    found = sender.results(ended)
    assert found.keys() == set(ids)
    ticks = 0
    for our_id, result in found.items():
        assert result.answer is not None
        reading = sender.batches.dialect.read(result.answer)
        assert (reading.error, reading.answer.text.endswith(f"[[echo:{our_id}]]")) == (None, True)
        is_reported = reading.answer.usage.cost_source == "reported"
        assert is_reported == sender.batches.takes_adds
        ticks += reading.answer.usage.cost_ticks or 0
        if not is_reported:
            ticks += with_cost(reading.answer.usage, PRICES, tier=BATCH).cost_ticks or 0
    bill = emulator.bill()
    assert (bill.ticks_delivered, bill.ids_again) == (ticks, 0)
    assert sender.batches.read_deleted(sender.send(sender.batches.delete_file(file))) is None
    assert sender.batches.read_deleted(sender.send(sender.batches.delete_file(file))) is None


@pytest.mark.anyio
async def test_the_client_of_runs_streams_the_input_file_and_the_results(
    sender: Sender, emulator: RunningEmulator, tmp_path: Path
) -> None:
    emulator.configure(batch_validation_seconds=0.0, batch_seconds=0.0)
    batches, secret = sender.batches, Secret(emulator.key)
    path = tmp_path / "input.jsonl"
    path.write_bytes(b"".join(batches.line(f"r{n}", body(f"[[echo:{n}]]")) for n in range(700)))
    async with LeanTransport() as transport:
        endpoint = Endpoint(str(sender.http.base_url).rstrip("/"), batches.dialect.headers(secret, {}))
        client = ProviderClient(endpoint, transport, Secrets())
        upload = batches.upload(path.name, DAY)
        assert upload.file is not None
        given = batches.dialect.headers(secret, {"Content-Type": upload.file.content_type})
        content = FileUpload(path, upload.file.head, upload.file.tail)
        file = batches.read_uploaded(await client.send(upload.method, upload.path, content, 60, given))
        assert isinstance(file, str)
        create = batches.create("run-1.1", file)
        created = batches.read_created(await client.send(create.method, create.path, create.json, 60))
        assert isinstance(created, BatchLook)
        call = batches.look(created.batch_id)
        ended = batches.read_look(await client.send(call.method, call.path, None, 60))
        assert isinstance(ended, BatchLook)
        found: list[BatchResult] = []
        calls = list(batches.results(ended))
        while calls:
            call = calls.pop()
            results = io.BytesIO()
            raw = await client.send(call.method, call.path, None, 60, into=results)
            reader = batches.results_reader(raw.received_at)
            found += [*reader.feed(results.getvalue()), *reader.end()]
            if reader.next_page is not None:
                calls += batches.results(ended, reader.next_page)
    assert sorted(each.our_id for each in found if each.answer is not None) == sorted(f"r{n}" for n in range(700))
    assert emulator.bill().delivered == 700


def test_a_batch_whose_creation_was_never_acknowledged_is_found_by_its_name(
    sender: Sender, emulator: RunningEmulator
) -> None:
    file = sender.uploaded({"a": "[[echo:a]]"})
    name = "[[fault:create_reset:1]]"
    with pytest.raises(httpx.TransportError):
        sender.send(sender.batches.create(name, file))
    for number in range(120):
        sender.created(f"other-{number}", file)
    pages, page = [], None
    while True:
        listing = sender.batches.read_listing(sender.send(sender.batches.list_batches(page)))
        assert not isinstance(listing, BatchRefusal)
        pages.append(listing)
        page = listing.next_page
        if page is None:
            break
    assert len(pages) == 2
    assert [len(listing.named(name)) for listing in pages] == [0, 1]
    assert emulator.bill().batches == 121


def test_adds_whose_answer_was_lost_are_completed_from_the_list_of_requests(
    xai: Sender, emulator: RunningEmulator
) -> None:
    rows = {f"r{number}": body(f"[[echo:r{number}]]") for number in range(250)}
    batch = xai.created("[[fault:add_reset:1]]")
    with pytest.raises(httpx.TransportError):
        xai.send(xai.batches.add(batch.batch_id, list(rows.items())[:130]))
    there: set[str] = set()
    page = None
    while True:
        call = xai.batches.list_requests(batch.batch_id, page)
        assert call is not None
        listing = xai.batches.read_requests(xai.send(call))
        assert not isinstance(listing, BatchRefusal)
        there.update(listing.ids)
        page = listing.next_page
        if page is None:
            break
    assert len(there) == 130
    missing = [(our_id, each) for our_id, each in rows.items() if our_id not in there]
    sizes = [Size(len(each)) for _, each in missing]
    for chunk in chunks(sizes, max_bytes=20_000, max_lines=50):
        members = missing[chunk.first : chunk.first + chunk.lines]
        assert xai.batches.read_added(xai.send(xai.batches.add(batch.batch_id, members))) is None
    replay = xai.batches.read_added(xai.send(xai.batches.add(batch.batch_id, missing[:1])))
    assert isinstance(replay, BatchRefusal)
    assert replay.kind is BatchRefusalKind.DUPLICATE
    emulator.advance(2000)
    assert xai.results(xai.look(batch.batch_id)).keys() == rows.keys()
    bill = emulator.bill()
    assert (bill.generated, bill.ids_again, bill.generated_again) == (250, 0, 0)


def test_results_are_read_while_an_xai_batch_runs_and_again_when_it_has_ended(
    xai: Sender, emulator: RunningEmulator
) -> None:
    batch = xai.created("run-1.1")
    xai.send(xai.batches.add(batch.batch_id, [(f"r{number}", body(f"[[echo:{number}]]")) for number in range(10)]))
    emulator.advance(455)
    early = xai.results(xai.look(batch.batch_id))
    emulator.advance(1000)
    late = xai.results(xai.look(batch.batch_id))
    assert (len(early), len(late)) == (5, 10)
    for our_id, result in early.items():
        first, again = result.answer, late[our_id].answer
        assert first is not None
        assert again is not None
        assert first.body == again.body
    assert emulator.bill().delivered == 10


def test_each_bad_row_ends_as_its_own_error(sender: Sender, emulator: RunningEmulator) -> None:
    rows = {f"good-{number}": f"[[echo:{number}]]" for number in range(20)}
    rows |= {f"bad-{number}": f"[[fault:rejected]] {number}" for number in range(6)}
    rows |= {"garbled": "[[fault:line_garbled]]", "missing": "[[fault:line_missing]]"}
    batch = sender.created("run-1.1", sender.uploaded(rows))
    emulator.advance(2000)
    ended = sender.look(batch.batch_id)
    assert ended.state is BatchState.ENDED
    found = sender.results(ended)
    read = sender.batches.dialect.read
    good = {our_id for our_id, each in found.items() if each.answer is not None and read(each.answer).error is None}
    assert good == {f"good-{number}" for number in range(20)}
    for number in range(6):
        answer = found[f"bad-{number}"].answer
        assert answer is not None
        assert isinstance(read(answer).error, RequestRejected)
    assert isinstance(found["garbled"].error, AnswerCutShort)
    assert "missing" not in found
    assert isinstance(sender.batches.unanswered(ended), AnswerCutShort)


def test_a_bad_line_is_named(sender: Sender, emulator: RunningEmulator) -> None:
    batch = sender.created("run-1.1", sender.uploaded({"a": "a", "b": "[[fault:bad_line]]", "c": "c"}))
    emulator.advance(101)
    failed = sender.look(batch.batch_id)
    assert failed.state is BatchState.FAILED
    assert failed.refusal is not None
    assert (failed.refusal.kind, failed.refusal.lines) == (BatchRefusalKind.LINES, (1,))
    assert sender.results(failed) == {}


def test_one_probe_row_finds_a_model_without_batches(sender: Sender, emulator: RunningEmulator) -> None:
    line = sender.batches.line("probe", body("probe", "grok-4.5"))
    file = sender.batches.read_uploaded(sender.send(sender.batches.upload("probe.jsonl", DAY), line))
    assert isinstance(file, str)
    batch = sender.created("probe", file)
    emulator.advance(101)
    failed = sender.look(batch.batch_id)
    assert failed.refusal is not None
    assert (failed.state, failed.refusal.kind) == (BatchState.FAILED, BatchRefusalKind.NOT_OFFERED)
    assert "grok-4.5" in failed.refusal.message
    if sender.batches.takes_adds:
        empty = sender.created("probe-2")
        refused = sender.batches.read_added(
            sender.send(sender.batches.add(empty.batch_id, [("probe", body("probe", "grok-4.5"))]))
        )
        assert isinstance(refused, BatchRefusal)
        assert refused.kind is BatchRefusalKind.NOT_OFFERED
    assert emulator.bill().generated == 0


def test_the_quota_of_enqueued_tokens_is_learned_from_the_refusal(openai: Sender, emulator: RunningEmulator) -> None:
    emulator.configure(batch_max_enqueued_tokens=600)
    first, second = (openai.created(f"run-1.{n}", openai.uploaded({f"r{n}": f"[[echo:{n}]]"})) for n in range(2))
    emulator.advance(101)
    assert openai.look(first.batch_id).state is BatchState.RUNNING
    refused = openai.look(second.batch_id).refusal
    assert refused is not None
    assert (refused.kind, refused.max_enqueued_tokens) == (BatchRefusalKind.QUOTA, 600)


@pytest.mark.parametrize(
    ("option", "kind"),
    [("batch_creates_per_second", BatchRefusalKind.AGAIN), ("batch_max_open", BatchRefusalKind.QUOTA)],
)
def test_a_throttled_create_and_a_full_account_are_told_apart(
    sender: Sender, emulator: RunningEmulator, option: str, kind: BatchRefusalKind
) -> None:
    emulator.configure(**{option: 1})
    file = sender.uploaded({"a": "a"})
    sender.created("run-1.1", file)
    refused = sender.batches.read_created(sender.send(sender.batches.create("run-1.2", file)))
    assert isinstance(refused, BatchRefusal)
    assert refused.kind is kind


def test_a_cancelled_batch_keeps_its_answers(sender: Sender, emulator: RunningEmulator) -> None:
    batch = sender.created("run-1.1", sender.uploaded({f"r{n}": f"[[echo:{n}]]" for n in range(10)}))
    emulator.advance(101)
    sender.look(batch.batch_id)
    emulator.advance(455)
    assert isinstance(sender.batches.read_look(sender.send(sender.batches.cancel(batch.batch_id))), BatchLook)
    emulator.advance(101)
    cancelled = sender.look(batch.batch_id)
    assert cancelled.state is BatchState.CANCELLED
    assert len(sender.results(cancelled)) == 5
    assert "cancelled" in str(sender.batches.unanswered(cancelled))


def test_an_expired_openai_batch_gives_answers_and_an_error_for_each_other_row(
    openai: Sender, emulator: RunningEmulator
) -> None:
    emulator.configure(batch_life_seconds=555.0)
    batch = openai.created("run-1.1", openai.uploaded({f"r{n}": f"[[echo:{n}]]" for n in range(10)}))
    emulator.advance(101)
    openai.look(batch.batch_id)
    emulator.advance(600)
    expired = openai.look(batch.batch_id)
    assert expired.state is BatchState.EXPIRED
    found = openai.results(expired)
    kinds = [each.error.kind if each.error else "answer" for each in found.values()]
    assert (kinds.count("answer"), kinds.count("expired")) == (5, 5)


def test_an_expired_xai_batch_has_no_results_left(xai: Sender, emulator: RunningEmulator) -> None:
    batch = xai.created("run-1.1")
    xai.send(xai.batches.add(batch.batch_id, [("a", body("a"))]))
    emulator.advance(3 * 86_400)
    found = xai.look(batch.batch_id)
    call = xai.batches.results(found)[0]
    gone = xai.batches.refusal(xai.send(call))
    assert gone.kind is BatchRefusalKind.GONE
