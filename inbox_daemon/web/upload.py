"""A file, or a part of one, on its way in: a multipart form, read as it comes, what it carries straight into the store.

No byte is written twice and none waits in memory; writing and hashing happen in threads. Knows the form, not the route.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from python_multipart.exceptions import FormParserError, MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from inbox_daemon.web.wrong import Wrong, missing_in_form, quoted, too_large

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it logs bytes of what somebody sends

_AT_ONCE = 1 << 18  # bytes that are handed to a thread, and written, at a time
_DRAINED = 1 << 20  # bytes that are read on after a refusal, so that a small form's sender gets to see it
_MOST_PARTS = 8
_MOST_FIELD = 1 << 16  # bytes
_BESIDE = 1 << 20  # bytes that a form may have beside its file


class Kept(Protocol):
    """Where the bytes of a file go: an upload of the store, or one part of an upload."""

    size: int

    def write(self, data: bytes | memoryview) -> None: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None, /
    ) -> None: ...


Where = TypeVar("Where", bound=Kept)


class Form(Generic[Where]):
    """A multipart form on its way in. As a context manager, what of its file was not kept by the end is removed.

    Attributes:
        name: of the field with the file; `most`: bytes that it may have.
        fields: what came beside the file, by name.
        filename: of the file as its sender calls it; "" while there is none.
        upload: the file so far; None while there is none.
    """

    def __init__(
        self, content_type: str, name: str, most: int, begin: Callable[[str, Mapping[str, str]], Where]
    ) -> None:
        """Read the form's head.

        Args:
            name: of the field with the file.
            most: bytes that the file may have.
            begin: says where the bytes go, once the file's own name and the fields before it are known.

        Raises:
            Wrong: it is no form.
        """
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise Wrong(415, "The body must be multipart/form-data, with a boundary in its Content-Type.")
        self.name, self.most, self._begin = name, most, begin
        self.fields: dict[str, str] = {}
        self.filename = ""
        self.upload: Where | None = None
        self._parts = 0
        self._header = (bytearray(), bytearray())  # the name and the value that are being read
        self._disposition = b""
        self._field = ""
        self._is_file = False
        self._waiting = bytearray()  # of the part: what is not written yet, or the value of a field
        self._ended = False
        try:
            self._parser = MultipartParser(boundary, _callbacks(self))
        except FormParserError as error:
            raise Wrong(400, f"The form's boundary is not right: {error}.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.upload is not None:
            self.upload.__exit__(kind, error, at)

    def write(self, data: bytes) -> None:
        """Read what has come.

        Raises:
            Wrong: it is no form, or one that is refused.
            SpoolError, OSError: the disk says no.
        """
        try:
            self._parser.write(data)
        except MultipartParseError as error:
            raise Wrong(400, f"The body is no multipart form: {error}.") from error

    def end(self) -> Where:
        """Return the file, now that the whole form has come.

        Raises:
            Wrong: it has not, or there is no file in it.
        """
        if not self._ended:
            raise Wrong(400, "The form ends before its last boundary.")
        if self.upload is None:
            raise missing_in_form(self.name)
        return self.upload

    # -- what the parser says

    def on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise Wrong(400, f"The form has more than {_MOST_PARTS} parts.")
        self._disposition, self._is_file = b"", False
        self._waiting.clear()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def on_header_end(self) -> None:
        if self._header[0].lower() == b"content-disposition":
            self._disposition = bytes(self._header[1])
        for half in self._header:
            half.clear()

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._field = options.get(b"name", b"").decode(errors="replace")
        if b"filename" not in options:
            return
        if self._field != self.name or self.upload is not None:
            said = f"One file is expected, in the field '{self.name}'; not {quoted(self._field)}."
            raise Wrong(400, said, param=self.name)
        self.filename = options[b"filename"].decode(errors="replace") or "upload"
        self._is_file = True
        self.upload = self._begin(self.filename, self.fields)

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file and not self._waiting and end - start >= _AT_ONCE // 4:
            self._write(memoryview(data)[start:end])
            return
        self._waiting += data[start:end]
        if not self._is_file and len(self._waiting) > _MOST_FIELD:
            raise Wrong(400, f"The field {quoted(self._field)} is too long.", param=self._field)
        if self._is_file and len(self._waiting) >= _AT_ONCE:
            self._flush()

    def on_part_end(self) -> None:
        if self._is_file:
            self._flush()
        else:
            self.fields[self._field] = self._waiting.decode(errors="replace")
        self._waiting.clear()

    def on_end(self) -> None:
        self._ended = True

    def _flush(self) -> None:
        self._write(bytes(self._waiting))
        self._waiting.clear()

    def _write(self, data: bytes | memoryview) -> None:
        assert self.upload is not None
        if self.upload.size + len(data) > self.most:
            raise too_large(self.most, self.name)
        self.upload.write(data)


def _callbacks(form: Form[Where]) -> dict[str, object]:
    return {name: getattr(form, name) for name in dir(Form) if name.startswith("on_")}


def refuse_purpose(purpose: str) -> None:
    """Raise Wrong where a file is for something else than batches."""
    if purpose != "batch":
        raise Wrong(400, f"{quoted(purpose)} is not one of ['batch'] - 'purpose'", "invalid_value", "purpose")


@asynccontextmanager
async def received(request: Request, form: Form[Where]) -> AsyncIterator[Where]:
    """Read a request's form to its end; yields the file in it, of which what is not kept by the end is removed.

    Raises Wrong where the sender has gone, and as `_received`.
    """
    try:
        yield await _received(request, form)
    except ClientDisconnect:
        raise Wrong(400, "The upload ended before its end.") from None
    finally:
        await asyncio.to_thread(form.__exit__, None, None, None)


async def _received(request: Request, form: Form[Where]) -> Where:
    """Read a request's form to its end, and return the file in it.

    Raises:
        Wrong: it is refused; what has come of it is to be removed.
        SpoolError, OSError: the disk says no.
        ClientDisconnect: the sender has gone.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Wrong(415, "A body with a Content-Encoding is not taken; send the file as NAME.jsonl.gz or .zst instead.")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > form.most + _BESIDE:
        raise too_large(form.most, form.name)
    refused: Exception | None = None
    come: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        come.append(chunk)
        size += len(chunk)
        if refused is not None:
            come.clear()
            if size > _DRAINED:
                break
        elif size >= _AT_ONCE:
            refused = await _written(form, come)
            size = 0
    refused = refused or await _written(form, come)
    if refused is not None:
        raise refused
    return form.end()


async def _written(form: Form[Where], come: list[bytes]) -> Exception | None:
    """Hand what has come to the form, in a thread; return why it is refused."""
    data = b"".join(come)
    come.clear()
    try:
        await asyncio.to_thread(form.write, data)
    except Exception as error:
        return error
    return None
