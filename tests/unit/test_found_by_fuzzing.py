"""What ``scripts/fuzz`` found, one test a find."""

from __future__ import annotations

import json
from pathlib import Path
from zlib import crc32

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkpoint_rows import START, an_answer
from manifest_files import opened

from batchvision.checkpoint.journal_records import Received, SegmentHeader
from batchvision.checkpoint.log_file import read_log
from batchvision.checkpoint.record_json import decode, encode
from batchvision.errors import CheckpointDamaged, ImageUnreachable, JobInvalid
from batchvision.images.references import check_url, redact_url
from batchvision.secrets import Secret, Secrets


def test_an_answer_that_is_no_text_is_read_back_though_its_base64_is_like_the_keys() -> None:
    """All but the key's last character, so that it is no secret, in bytes that are no UTF-8."""
    secrets = Secrets(Secret("xai-canary-key-0123456789"))
    received = Received("x1", an_answer(b"\xff xai-canary-key-0123456787"))
    written = encode(received, secrets.mask)
    assert decode(json.loads(written)) == received


@pytest.mark.parametrize("place", [4, 6, 8, 10])
def test_a_page_header_that_lacks_a_field_is_damage(tmp_path: Path, place: int) -> None:
    """Thrift takes such a header for whole; the sizes of the page are not in it."""
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"id": ["a", "b"]}), path, use_dictionary=False, compression="none")
    raw = path.read_bytes()
    path.write_bytes(raw[:place] + b"\x00" + raw[place + 1 :])  # the header ends before its field there
    manifest = opened(path, {})
    with pytest.raises(JobInvalid, match=r"m\.parquet is damaged"):
        list(manifest.batches(["id"]))


@pytest.mark.parametrize(
    "spoilt",
    [
        {"run_id": "\ud800"},
        {"run_id": "../../elsewhere"},
        {"run_id": "9" * 400},
        {"run_id": 7},
        {"shard": "0of1/../.."},
        {"seq": -1},
        {"seq": 10**40},
        {"seq": True},
        {"version": {}},
        {"started_at": "0001-01-01T00:00:00+23:59"},
        {"g": float("inf")},
    ],
)
def test_a_journal_whose_header_somebody_edited_names_no_file_and_is_damage(
    tmp_path: Path, spoilt: dict[str, object]
) -> None:
    """The parts sealed from a journal are named after its header. Every checksum is right."""
    header = {"g": 0, "last": 1, **json.loads(encode(SegmentHeader("night", "run0", START, "0of1", 7), str))}
    path = tmp_path / "journal-00000007.log"
    for document, is_read in ((header, True), (header | spoilt, False)):
        line = json.dumps(document).encode()
        path.write_bytes(b"%08x %s\n" % (crc32(line), line))
        if is_read:
            assert read_log(path).header.run_id == "run0"
            continue
        with pytest.raises(CheckpointDamaged, match="Next:"):
            read_log(path)


@pytest.mark.parametrize(
    ("url", "is_usable"),
    [
        ("http://[::1]/a.png", True),
        ("https://user:word@[2001:db8::1]:8443/a.png?sig=1", True),
        ("http://u:p@host.example:80/a.png", True),
        ("http://[::1]x/a.png", False),
        ("http://[::1][{:[[@[[[ttp://[:@[z", False),
        ("http://a[b@host.example/a.png", False),
    ],
)
def test_brackets_stand_around_an_address_and_nowhere_else_in_a_url(url: str, is_usable: bool) -> None:
    """Behind one address urlsplit takes any bracket; without its user, such a URL is none any more."""
    if not is_usable:
        with pytest.raises(ImageUnreachable, match="not a usable URL"):
            check_url(url)
        return
    check_url(url)
    assert redact_url(redact_url(url)) == redact_url(url)
