"""In which order a batch's requests are best computed: those that begin alike side by side, so that vLLM finds their
common prefix in its KV cache.

Pure: text in, an order out. Never decides between batches (dispatch does), and keeps no text.
"""

from __future__ import annotations

import heapq
import itertools
import zlib
from array import array
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import orjson

from inbox_daemon.request.endpoints import TEXTS

# The depths, in bytes of text, at which two requests are compared. One byte of a hash each, so a key takes 16 bytes:
# two texts that differ within the first depths may look alike there, and part again at the next one.
_DEPTHS = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 16384, 32768, 65536)
_WORTH = 0.1  # of the text: what more must come to lie side by side before the file's own order is given up
_LOOKED_AT = 256  # pairs of neighbours whose text is compared, to see whether it does
_RUN = 4096  # keys sorted at a time; some milliseconds
_ALIKE = tuple(int.from_bytes(b"\1" * n) for n in range(len(_DEPTHS) + 1))


def leading(body: Mapping[str, Any]) -> bytes:
    """Return the text, at most 64 KiB, that the prompt of a request with this body begins with, or stands for it.

    What a chat template adds is the same for all. Images and the like are left out: they are no text to compare.
    """
    pieces: list[str] = []
    left = _DEPTHS[-1]
    for text in _texts(body):
        pieces.append(text[:left])
        left -= len(text) + 1
        if left <= 0:
            break
    return "\0".join(pieces).encode("utf-8", "surrogatepass")


def _texts(body: Mapping[str, Any]) -> Iterator[str]:
    if tools := body.get("tools"):
        yield orjson.dumps(tools).decode()
    for name in ("messages", *TEXTS):
        value = body.get(name)
        if isinstance(value, list):
            yield from _listed(value)
        elif isinstance(value, str) and name != "messages":
            yield value


def _listed(value: list[Any]) -> Iterator[str]:
    """Yield the texts of messages, or what stands for the first of many prompts, or for one prompt in tokens."""
    first = value[0] if value else None
    if isinstance(first, list):
        value, first = first, first[0] if first else None
    if isinstance(first, str):
        yield first
    elif isinstance(first, int):
        yield " ".join(str(token) for token in value[: _DEPTHS[-1]] if isinstance(token, int))
    for message in value if isinstance(first, dict) else ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            yield from (
                part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
            )


def key(text: bytes) -> int:
    """Return 128 bits, of which the first 8n are equal for texts that are equal down to the n-th depth."""
    made, running, start = 0, 0, 0
    for level, depth in enumerate(_DEPTHS):
        if start >= len(text):
            return made << 8 * (len(_DEPTHS) - level) | made % 256 * _ALIKE[len(_DEPTHS) - level]
        running = zlib.crc32(text[start:depth], running)
        made = made << 8 | (running ^ running >> 8 ^ running >> 16 ^ running >> 24) & 0xFF
        start = depth
    return made


class Prefixes:
    """The keys of one file's requests, added in the file's order; 16 bytes a request."""

    def __init__(self) -> None:
        self._high, self._low = array("Q"), array("Q")

    def add(self, body: Mapping[str, Any] | None) -> None:
        """Note the next request; None for one that will not be computed."""
        made = key(leading(body)) if body is not None else 0
        self._high.append(made >> 64)
        self._low.append(made & (1 << 64) - 1)

    def arranged(self, text: Callable[[int], bytes]) -> Generator[None, None, array[int]]:
        """Return the places in the order to compute them, or an empty array where the file's own is as good.

        Yields between pieces of work of some milliseconds. Requests whose keys are equal keep their order.

        Args:
            text: gives `leading` of the request at a place once more; asked for a few hundred.
        """
        runs: list[array[int]] = []
        for start in range(0, len(self._high), _RUN):
            places = range(start, min(start + _RUN, len(self._high)))
            runs.append(array("I", sorted(places, key=self._key)))
            yield
        order = array("I")
        merged = heapq.merge(*runs, key=self._key)
        while piece := array("I", itertools.islice(merged, _RUN)):
            order.extend(piece)
            yield
        known = lambda place: text(place) if self._key(place) else b""  # noqa: E731  others may be long, and are no text
        as_they_stand, total = yield from _in_common(range(len(order)), known)
        side_by_side, more = yield from _in_common(order, known)
        return order if side_by_side - as_they_stand > _WORTH * (total + more) / 2 else array("I")

    def _key(self, place: int) -> int:
        return self._high[place] << 64 | self._low[place]


def _in_common(order: Sequence[int], text: Callable[[int], bytes]) -> Generator[None, None, tuple[int, int]]:
    """Return how many bytes neighbours in this order begin with in common, in a sample of them, and all their bytes.

    Yields after each pair: reading the lines that hold their texts may take a tenth of a second.
    """
    common = total = 0
    for at in range(1, len(order), max(1, len(order) // _LOOKED_AT)):
        one, other = text(order[at - 1]), text(order[at])
        common += _length_in_common(one, other)
        total += len(other)
        yield
    return common, total


def _length_in_common(one: bytes, other: bytes) -> int:
    known, unknown = 0, min(len(one), len(other))
    while known < unknown:
        middle = (known + unknown + 1) // 2
        known, unknown = (middle, unknown) if one[:middle] == other[:middle] else (known, middle - 1)
    return known
