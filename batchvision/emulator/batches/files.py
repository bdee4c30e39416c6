"""Uploaded input files, in a temporary folder. Result files are made of their batch when they are read."""

from __future__ import annotations

import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

from aiohttp import BodyPartReader, web

from batchvision.emulator.options import Face
from batchvision.emulator.refusals import Reason, RequestRefused

_CHUNK = 256 * 1024
#: Bounds of ``expires_after`` in seconds.
_SHORTEST_LIFE, _LONGEST_LIFE = 3_600, 2_592_000


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """An input file, or a file of results (``batch_id``) that has no ``path``."""

    id: str
    face: Face
    name: str
    purpose: str
    created_at: float
    size: int = 0
    expires_at: float | None = None
    path: Path | None = None
    batch_id: str = ""


class FileStore:
    """All files of all faces. The folder is made with the first upload and removed by ``close``."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files: dict[str, UploadedFile] = {}

    def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        self._files.clear()

    def keep(self, file: UploadedFile) -> UploadedFile:
        self._files[file.id] = file
        return file

    def find(self, face: Face, file_id: object, now: float) -> UploadedFile:
        """Raises RequestRefused for an unknown, deleted or expired file."""
        file = self._files.get(file_id) if isinstance(file_id, str) else None
        if file is None or file.face is not face or (file.expires_at is not None and file.expires_at <= now):
            raise RequestRefused(Reason.NO_PATH, f"No such File object: {file_id}")
        return file

    def delete(self, file: UploadedFile) -> None:
        del self._files[file.id]
        if file.path is not None:
            file.path.unlink(missing_ok=True)

    def listed(self, face: Face) -> list[UploadedFile]:
        """The newest first."""
        return [file for file in reversed(self._files.values()) if file.face is face]

    async def receive(self, face: Face, request: web.Request, now: float) -> UploadedFile:
        """Store the file of a multipart upload. Raises RequestRefused."""
        if not request.content_type.startswith("multipart/"):
            raise RequestRefused(Reason.INVALID, "Expected a multipart/form-data upload with the part `file`.")
        fields: dict[str, str] = {}
        file_id, name, path, size = f"file-{uuid.uuid4().hex}", "", None, 0
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            if not isinstance(part, BodyPartReader):
                continue
            if part.name != "file":
                if path is not None and face is Face.XAI and part.name == "expires_after":
                    raise RequestRefused(Reason.INVALID, "expires_after must be sent before the file.")
                fields[str(part.name)] = await part.text()
                continue
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="emulator-", ignore_cleanup_errors=True)
            name, path = part.filename or "upload", Path(self._folder.name) / file_id
            with path.open("wb") as target:
                while chunk := await part.read_chunk(_CHUNK):
                    size += target.write(chunk)
        if path is None:
            raise RequestRefused(Reason.INVALID, "The part `file` is missing.")
        life = _life_seconds(face, fields)
        purpose = fields.get("purpose", "")
        if face is Face.OPENAI and purpose != "batch":
            raise RequestRefused(Reason.INVALID, f"Invalid value for 'purpose': {purpose!r}. Give 'batch'.")
        expires_at = None if life is None else now + life
        return self.keep(UploadedFile(file_id, face, name, purpose, now, size, expires_at, path))


def _life_seconds(face: Face, fields: dict[str, str]) -> int | None:
    given = fields.get("expires_after[seconds]" if face is Face.OPENAI else "expires_after")
    if given is None:
        return None
    if face is Face.OPENAI and fields.get("expires_after[anchor]") != "created_at":
        raise RequestRefused(Reason.INVALID, "expires_after[anchor] must be 'created_at'.")
    if not given.isdecimal() or not _SHORTEST_LIFE <= int(given) <= _LONGEST_LIFE:
        message = f"expires_after must be an integer from {_SHORTEST_LIFE} to {_LONGEST_LIFE} seconds."
        raise RequestRefused(Reason.INVALID, message)
    return int(given)
