"""OpenAI's Upload object and that of a part: a file that comes in parts, as it is told. Pure."""

from __future__ import annotations

from typing import TypedDict

from inbox_daemon.spool.parted import Begun, Part
from inbox_daemon.spool.store import StoredFile
from inbox_daemon.web import objects
from inbox_daemon.web.objects import File


class Upload(TypedDict):
    """OpenAI's upload object. `file` is null until it is complete."""

    id: str
    object: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: str
    file: File | None


class UploadPart(TypedDict):
    """OpenAI's object of one part."""

    id: str
    object: str
    created_at: int
    upload_id: str


def begun(upload: Begun, status: str = "pending") -> Upload:
    """Return the object of an upload that is not complete."""
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.bytes,
        "created_at": upload.created_at,
        "expires_at": upload.expires_at,
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": status,
        "file": None,
    }


def completed(id: str, upload: Begun | None, file: StoredFile) -> Upload:
    """Return the object of an upload that has become a file; `upload`: None where it had before."""
    return {
        "id": id,
        "object": "upload",
        "bytes": file.bytes,
        "created_at": upload.created_at if upload else file.created_at,
        "expires_at": upload.expires_at if upload else file.created_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "completed",
        "file": objects.upload(file),
    }


def part(upload_id: str, part: Part) -> UploadPart:
    """Return the object of one part."""
    return {"id": part.id, "object": "upload.part", "created_at": part.created_at, "upload_id": upload_id}
