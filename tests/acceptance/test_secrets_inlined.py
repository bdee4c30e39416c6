"""No secret is told where signed URLs are downloaded and their images decoded (P12): not by the decoding processes,
the line that a terminal shows, or any other command about the output."""

from __future__ import annotations

import os
import pty
import subprocess
import threading
import time
from pathlib import Path

from harness import Workbench
from hostile_images import drawn, encoded
from test_hostile_images import images_at
from test_secrets import CANARIES, KEY, OPENERS, Watched, _command_lines, assert_nothing_is_told, found_in

from batchvision.emulator import EmulatorOptions, start_in_thread

SIGNED = "?X-Amz-Security-Token={}&X-Amz-Signature={}&v=1".format(OPENERS[1].replace("/", "%2F"), OPENERS[0])


def on_a_terminal(bench: Workbench, *arguments: str | Path) -> tuple[int, bytes, set[bytes]]:
    """Exit code, all that a terminal was shown, and the command lines of all that was started."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        bench.command(*arguments), cwd=bench.folder, env=bench.environment(), stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown, lines = bytearray(), set[bytes]()

    def read() -> None:
        try:
            while piece := os.read(ours, 65536):
                shown.extend(piece)
        except OSError:  # the terminal has no other end any more
            pass

    reading = threading.Thread(target=read)
    reading.start()
    while process.poll() is None:
        lines |= set(_command_lines(process.pid))
        time.sleep(0.02)
    reading.join()
    os.close(ours)
    return process.returncode, bytes(shown), lines


def test_images_behind_signed_urls_are_decoded_and_nothing_tells_what_opened_them(tmp_path: Path) -> None:
    bench = Watched(tmp_path, key=KEY)
    photo = encoded(drawn(), "WEBP")
    pictures = {f"/{number}.webp": encoded(drawn(seed=number), "WEBP") for number in range(6)}
    pictures |= {"/cut.webp": photo[: len(photo) // 2], "/page.webp": b"<html>" + OPENERS[0].encode()}
    pictures |= {"/bomb.webp": photo[:12] + b"VP8X" + photo[16:24] + b"\xff" * 6 + photo[30:]}
    with images_at(pictures) as server, start_in_thread(EmulatorOptions(key=KEY)) as emulator:
        host = f"http://reader:{OPENERS[2]}@127.0.0.1:{server.server_port}"
        rows = [
            {"sku": f"row-{number}", "image": f"{host}{path}{SIGNED}", "title": "t", "hint": ""}
            for number, path in enumerate([*pictures, "/0.webp#again"])
        ]
        rows += [{"sku": "gone", "image": f"http://127.0.0.1:9/x.webp{SIGNED}", "title": "t", "hint": KEY}]
        job = bench.job(
            bench.manifest(rows),
            provider=f'base_url = "{emulator.url}/xai/v1"\nimage_mode = "inline"',
            images="allow_private_hosts = true",
            limits='max_failed = "100%"',
        )
        code, shown, lines = on_a_terminal(bench, "run", job)
        assert any(OPENERS[0] in asked for asked in server.asked), "the canaries were in play"
        others = [("status", "out"), ("verify", "out"), ("show", "--status", "failed", "out"), ("plan", str(job))]
        others += [("status", "--ledger-csv", "out/ledger.csv", "out"), ("run", str(job), "--retry-failed")]
        said = [bench.call(*words) for words in others]
    assert code == 3, shown.decode(errors="replace")
    assert len(bench.table("results")) == 7, "the whole ones were decoded"
    assert any(b"batchvision.images.worker" in line for line in lines), "decoding processes were seen"
    assert not [canary for canary in CANARIES if found_in(shown)]
    assert_nothing_is_told(tmp_path / "out", shown, *lines, *(done.stdout + done.stderr for done in said))
    assert [done.returncode for done in said] == [0, 0, 0, 0, 0, 3], [done.stderr[-300:] for done in said]
