"""A client of the emulator's files and batches, by plain HTTP: for tests of the faces."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

import httpx
from PIL import Image

from batchvision.emulator import Face, RunningEmulator

CHAT = "/v1/chat/completions"


def picture(colour: str = "red") -> str:
    target = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(target, "PNG")
    return "data:image/png;base64," + base64.b64encode(target.getvalue()).decode()


def chat_body(text: str = "What is it?", *, model: str = "grok-4.3", url: str | None = None) -> dict[str, Any]:
    parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url or picture()}}]
    return {"model": model, "messages": [{"role": "user", "content": parts}]}


def line(name: str, body: Mapping[str, Any] | None = None, **changes: Any) -> str:
    """One line of an input file, with ``name`` as its custom id."""
    asked = body or chat_body(f"[[echo:{name}]]")
    return json.dumps({"custom_id": name, "method": "POST", "url": CHAT, "body": asked, **changes})


class BatchCalls:
    """Calls to one face. Each returns the parsed body and raises for an error status."""

    def __init__(self, emulator: RunningEmulator, face: Face) -> None:
        self.face = face
        headers = {"Authorization": f"Bearer {emulator.key}"}
        self.http = httpx.Client(base_url=emulator.base_url(face), headers=headers, timeout=60)

    def get(self, path: str, **query: Any) -> Any:
        return self._checked(self.http.get(path, params=query))

    def post(self, path: str, document: Any = None) -> Any:
        return self._checked(self.http.post(path, json=document))

    def upload(self, lines: Iterable[str], name: str = "batch.jsonl", **fields: str) -> str:
        content = "\n".join(lines).encode()
        given = {"purpose": "batch", **fields} if self.face is Face.OPENAI else fields
        return str(self._checked(self.http.post("/files", data=given, files={"file": (name, content)}))["id"])

    def create(self, file_id: str, **fields: Any) -> Any:
        """A batch of an uploaded file."""
        if self.face is Face.XAI:
            return self.post("/batches", {"name": "test", "input_file_id": file_id, **fields})
        window = {"endpoint": CHAT, "completion_window": "24h"}
        return self.post("/batches", {"input_file_id": file_id, **window, **fields})

    def lines_of(self, file_id: str) -> list[dict[str, Any]]:
        """The decodable lines of a file of results."""
        found = []
        for text in self.http.get(f"/files/{file_id}/content").raise_for_status().text.splitlines():
            try:
                found.append(json.loads(text))
            except ValueError:
                continue
        return found

    @staticmethod
    def _checked(response: httpx.Response) -> Any:
        response.raise_for_status()
        return response.json()


def answer_text(body: Mapping[str, Any]) -> str:
    return str(body["choices"][0]["message"]["content"])
