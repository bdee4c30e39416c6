"""What ``scripts/fuzz`` found, one test a find."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkpoint_rows import an_answer

from batchvision.checkpoint.entries import Received, decode, encode
from batchvision.errors import JobInvalid
from batchvision.manifest.parquet import ParquetManifest
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
    manifest = ParquetManifest(path, {})
    with pytest.raises(JobInvalid, match=r"m\.parquet is damaged"):
        list(manifest.batches(["id"]))
