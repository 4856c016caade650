"""A file's bytes on their way out: in large chunks, whole or from where a download broke off.

A file that is removed meanwhile is still sent to its end: it was opened before the first byte left. It follows no
link.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import ExitStack
from email.utils import formatdate
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from inbox_daemon.spool import published
from inbox_daemon.web.wrong import Wrong

CHUNK = 1 << 20  # bytes; with 64 KiB a download takes four times as long
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def tag(there: os.stat_result) -> str:
    """Return the ETag of a file's bytes: nothing here is changed in its place."""
    return f'"{there.st_ino:x}-{there.st_size:x}-{there.st_mtime_ns:x}"'


def wanted(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the first byte that a Range header asks for, and the one after the last; None: all of them.

    More than one range, and what is no range of bytes, is answered with all, as RFC 9110 allows.

    Raises:
        Wrong: it begins behind the end.
    """
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        begin, end = max(0, size - int(last)), size
    else:
        begin, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return None
    if begin >= size or (not first and int(last) == 0):
        headers = {"content-range": f"bytes */{size}"}
        raise Wrong(416, f"The file has {size:,} bytes; that range is not in it.", "invalid_range", headers=headers)
    return begin, end


def sent(request: Request, path: Path, filename: str) -> Response:
    """Return the answer with a file's bytes, those that the request asks for; to be called in a thread.

    Raises:
        FileNotFoundError: it is gone.
        SpoolError: it is no regular file, or may not be read.
        Wrong: there are no such bytes.
    """
    with ExitStack() as held:
        file = held.enter_context(published.opened(path))
        return _answer(request, file, held, filename)


def _answer(request: Request, file: BinaryIO, held: ExitStack, filename: str) -> Response:
    there = os.fstat(file.fileno())
    size, etag = there.st_size, tag(there)
    plain = filename.encode("ascii", "replace").decode().translate(str.maketrans('"\\?', "___"))
    headers = {
        "etag": etag,
        "last-modified": formatdate(there.st_mtime, usegmt=True),
        "accept-ranges": "bytes",
        "content-disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}",
        "x-content-type-options": "nosniff",
    }
    if etag in [one.strip() for one in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    unchanged = request.headers.get("if-range") in (None, etag, headers["last-modified"])
    part = wanted(request.headers.get("range"), size) if unchanged else None
    begin, end = part or (0, size)
    if part:
        headers["content-range"] = f"bytes {begin}-{end - 1}/{size}"
    headers["content-length"] = str(end - begin)
    status, kind = (206 if part else 200), "application/octet-stream"
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=kind)
    return StreamingResponse(_read(file, held.pop_all(), begin, end), status, headers, kind)


async def _read(file: BinaryIO, held: ExitStack, begin: int, end: int) -> AsyncIterator[bytes]:
    with held:
        while begin < end:
            block = await asyncio.to_thread(os.pread, file.fileno(), min(CHUNK, end - begin), begin)
            if not block:
                return  # somebody has cut it short; the client sees that from what is missing
            begin += len(block)
            yield block
