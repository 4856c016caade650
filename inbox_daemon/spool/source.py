"""Reading what users dropped: plain, gzip or zstd, block by block, in bounded memory whatever the file claims to be.

Opens only regular files, follows no links in the inbox, and never writes.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from inbox_daemon.errors import Rejected
from inbox_daemon.text import shown

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BLOCK = 1 << 20
_HEAD = 1 << 16  # bytes that show what a file is
_ZSTD = b"\x28\xb5\x2f\xfd"
_OTHER_KINDS = (
    (b"\x1f\x8b", "gzip: name it NAME.jsonl.gz"),
    (_ZSTD, "zstd: name it NAME.jsonl.zst"),
    (b"PK\x03\x04", "a zip archive: unpack it"),
    (codecs.BOM_UTF16_LE, "UTF-16: save it as UTF-8"),
    (codecs.BOM_UTF16_BE, "UTF-16: save it as UTF-8"),
)
_UTF_16 = re.compile(rb"(?:[^\0]\0){2}|(?:\0[^\0]){2}|\0\0\0[^\0]|[^\0]\0\0\0", re.DOTALL)  # or 32, without a mark
_ARRAY = re.compile(rb"\[\s*\{")
_OVER_LINES = re.compile(rb'\{(?:[^\n]*,)?[^\S\n]*\n\s*"')  # an object whose next key is on the next line
_CR_ALONE = re.compile(rb"\}\s*\r\s*\{")
_PIECES = 500
_GZIP_WINDOW, _ZSTD_WINDOW = 1 << 15, 1 << 27  # bytes of content that are kept at the most; zstd refuses more
_COMPRESSED_BLOCK = 1 << 16  # what is left over of it is copied for each stream in it, and it may hold thousands


class Truncated(Rejected):
    """The compressed stream stops before its end: most likely an upload that was cut."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            "truncated_compression",
            f"{shown(path.name)}: the compressed stream stops before its end. Was the upload cut? Send the file again.",
        )


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


class _Gzip:
    """zlib's decompressor with the interface that the standard library gave all later ones."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)
        self._full = False

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not (self._stream.unconsumed_tail or self._full)

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        out = self._stream.decompress(self._stream.unconsumed_tail + data, max_length)
        self._full = len(out) == max_length  # zlib may hold more output though it took all input
        return out


class Blocks(Iterator[bytes]):
    """The content of a dropped file, block by block.

    Attributes:
        kept: bytes of what came before that its decompressor keeps in memory, at most.
    """

    def __init__(self) -> None:
        self.kept = 0
        self.content: Iterator[bytes] = iter(())

    def __next__(self) -> bytes:
        return next(self.content)


def open_regular(path: Path, *, follow: bool = False) -> int:
    """Open a dropped file for reading. Raises Rejected where it is no regular file or may not be read.

    Args:
        follow: whether it may be a link to one: not in the inbox, where it could lead to what its owner may not read.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    except OSError as error:
        step = "; chmod g+r it and drop it again" if isinstance(error, PermissionError) else ""
        raise Rejected("unreadable", f"{shown(path.name)}: cannot be opened ({error.strerror}){step}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Rejected("not_a_file", f"{shown(path.name)}: not a regular file")
    return fd


def mark(path: Path) -> str:
    """Return what tells this file from every other, and stays with it when it is renamed and when it is claimed.

    The inode alone would not do: it is given to another file as soon as this one is removed.
    """
    found = path.lstat()
    return f"{found.st_ino}-{found.st_mtime_ns}"


def blocks(fd: int, path: Path, limit: int, hasher: Any = None) -> Blocks:
    """Return the file's content in blocks of at most 1 MiB, decompressed by its suffix.

    Args:
        fd: open for reading at its beginning; stays open.
        path: for its suffix and for messages.
        limit: bytes of content; a plain file that has more is refused unread.
        hasher: a hashlib object that is fed the bytes as they lie on disk, compressed or not.

    Raises:
        Truncated: the compressed stream has no end.
        Rejected: it is no such stream, is damaged, or has more content than `limit`.
    """
    found = Blocks()
    for suffix, decoder in ((".gz", _Gzip), (".zst", zstd.ZstdDecompressor)):
        if path.name.endswith(suffix):
            raw = _raw_blocks(fd, _COMPRESSED_BLOCK, hasher)
            unpacked = _gathered(_decompressed(raw, path, decoder, found))
            found.content = _limited(_looked_at(unpacked, path), path, limit)
            return found
    refuse_other_kinds(fd, path)
    if os.fstat(fd).st_size > limit:
        raise _too_large(path, limit)
    found.content = _limited(_raw_blocks(fd, BLOCK, hasher), path, limit)
    return found


def refuse_other_kinds(fd: int, path: Path) -> None:
    """Raise Rejected where a plain file's beginning or end shows that no line of it can be a request.

    One bad line among good ones shows nothing: it costs itself alone.
    """
    head = os.pread(fd, _HEAD, 0)
    tail = os.pread(fd, _HEAD, max(_HEAD, os.fstat(fd).st_size - _HEAD))
    kind = next((kind for magic, kind in _OTHER_KINDS if head.startswith(magic)), None)
    _refuse(kind or _kind(head, tail), path)


def _looked_at(blocks: Iterator[bytes], path: Path) -> Iterator[bytes]:
    """The same for what comes out of a compressed file."""
    for number, block in enumerate(blocks):
        if not number:
            _refuse(_kind(block, b""), path)
        yield block


def _refuse(kind: str | None, path: Path) -> None:
    if kind:
        raise Rejected("not_jsonl", f"{shown(path.name)}: is {kind}; a batch is one JSON object a line, in UTF-8")


def _kind(head: bytes, tail: bytes) -> str | None:
    """Return what this is the beginning and the end of, and what makes a batch of it; None where it may be a batch."""
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    first, _, rest = text.partition(b"\n")
    if _UTF_16.match(head):
        return "UTF-16 or UTF-32: save it as UTF-8"
    alone = not rest.strip() or first.rstrip().endswith(b",")  # nothing else is in it, or it goes on
    if (first.strip() == b"[" and rest) or (_ARRAY.match(first) and alone):
        return "one JSON array: `jq -c '.[]'` writes each of its objects on a line of its own"
    if _OVER_LINES.match(text):
        return "JSON with each request over several lines: `jq -c .` writes each on one line"
    both = head + tail
    if b"\n" not in both and (_CR_ALONE.search(both) or (both.count(b"\r") > 1 and both.endswith(b"}\r"))):
        return "text whose lines end with a carriage return alone: `tr '\\r' '\\n'` mends them"
    return None


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Join small pieces: a stream may hold thousands of streams of one byte, or of none."""
    gathered: list[bytes] = []
    size = 0
    for piece in pieces:
        gathered.append(piece)
        size += len(piece)
        if size >= _COMPRESSED_BLOCK or len(gathered) >= _PIECES:
            yield b"".join(gathered)
            gathered, size = [], 0
    yield b"".join(gathered)


def _limited(blocks: Iterator[bytes], path: Path, limit: int) -> Iterator[bytes]:
    size = 0
    for block in blocks:
        size += len(block)
        if size > limit:
            raise _too_large(path, limit)
        yield block


def _too_large(path: Path, limit: int) -> Rejected:
    sentence = (
        f"{shown(path.name)}: has more than {limit:,} bytes of requests; the setting inbox.max_file_bytes allows more"
    )
    return Rejected("file_too_large", sentence)


def _raw_blocks(fd: int, size: int, hasher: Any) -> Iterator[bytes]:
    while block := os.read(fd, size):
        if hasher is not None:
            hasher.update(block)
        yield block


def _decompressed(
    raw: Iterator[bytes], path: Path, new: type[_Gzip] | type[zstd.ZstdDecompressor], into: Blocks
) -> Iterator[bytes]:
    decoder: _Decoder = new()
    started = False
    for block in raw:
        data, more = block, True
        while more:
            if decoder.eof:  # gzip and zstd files may be several streams one after another
                data = data.lstrip(b"\0") if new is _Gzip else data  # tapes and disks pad with zeros; gunzip skips them
                if not data:
                    break
                decoder, into.kept = new(), 0
            into.kept = into.kept or (_GZIP_WINDOW if new is _Gzip else _window(data))
            try:
                yield decoder.decompress(data, BLOCK)
            except (zlib.error, zstd.ZstdError) as error:
                raise _damaged(path, error) from error
            started = True
            data = decoder.unused_data if decoder.eof else b""
            more = bool(data) if decoder.eof else not decoder.needs_input
    if started and not decoder.eof:
        raise Truncated(path)


def _window(head: bytes) -> int:
    """Return how many bytes zstd keeps of the content of the frame that begins so (RFC 8878, 3.1.1.1).

    What is no beginning of a frame, or too little of one, may be of any.
    """
    if len(head) < 18 or not head.startswith(_ZSTD):
        return _ZSTD_WINDOW
    flags = head[4]
    if flags & 0x20:  # a single segment, kept whole; its size stands behind the dictionary's id
        at, width = 5 + (0, 1, 2, 4)[flags & 3], 1 << (flags >> 6)
        return min(_ZSTD_WINDOW, int.from_bytes(head[at : at + width], "little") + (256 if width == 2 else 0))
    return min(_ZSTD_WINDOW, (8 + (head[5] & 7)) << (7 + (head[5] >> 3)))


def _damaged(path: Path, error: Exception) -> Rejected:
    if "too much memory" in str(error):
        step = "compress it again with `zstd --long=27` or less"
        return Rejected("window_too_large", f"{shown(path.name)}: zstd wants a window of over 128 MB for it; {step}")
    return Rejected("corrupt_compression", f"{shown(path.name)}: cannot be decompressed: {error}")
