"""Frames between daemon and worker over one stream socket. No vLLM, no files, no decisions.

A frame is its length, its kind and its payload. Requests and outcomes travel many to a frame, as records with the
user's JSON untouched; everything else is rare and is JSON.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Any

import orjson

from inbox_daemon.records import Outcome, Request

_FRAME = struct.Struct("<IB")
_REQUEST = struct.Struct("<QqIHHI")  # ticket, turn, line number, bytes of id, of model, of line
_TICKET = struct.Struct("<Q")
_OUTCOME = struct.Struct("<QBIIIII")  # ticket, is_error, input, cached, output, reasoning tokens, bytes of line

TARGET = 1 << 20  # bytes in a frame of many records, about


class Kind(IntEnum):
    REQUESTS = 1  # daemon to worker
    OUTCOMES = 2
    PHASE = 3
    READY = 4
    STATS = 5
    PLACES = 6
    LOAD = 7  # daemon to worker, once, before anything else
    RECALL = 8  # daemon to worker: stop computing these, and say so
    RECALLED = 9
    SLEEP = 10  # daemon to worker: give the GPU's memory back, but for what cannot be; it has no request then
    ASLEEP = 11
    WAKE = 12  # daemon to worker
    AWAKE = 13


def frame(kind: Kind, payload: bytes) -> bytes:
    return _FRAME.pack(len(payload), kind) + payload


def message(kind: Kind, value: Any) -> bytes:
    return frame(kind, orjson.dumps(value))


def _frames(kind: Kind, records: Iterable[Sequence[bytes]]) -> Iterator[bytes]:
    """Yield frames that carry these records, each given in pieces, the largest of them last."""
    parts: list[bytes] = []
    size = 0
    for record in records:
        parts += record
        size += len(record[-1])
        if size >= TARGET:
            yield frame(kind, b"".join(parts))
            parts, size = [], 0
    if parts:
        yield frame(kind, b"".join(parts))


def requests(batch: Iterable[Request]) -> Iterator[bytes]:
    """Yield frames that carry these requests."""
    return _frames(Kind.REQUESTS, map(_request, batch))


def _request(request: Request) -> tuple[bytes, bytes, bytes, bytes]:
    id, model = request.id.encode(), request.model.encode()
    head = _REQUEST.pack(request.ticket, request.turn, request.number, len(id), len(model), len(request.line))
    return head, id, model, request.line


def read_requests(payload: bytes) -> Iterator[Request]:
    at = 0
    while at < len(payload):
        ticket, turn, number, id_length, model_length, length = _REQUEST.unpack_from(payload, at)
        at += _REQUEST.size
        id = payload[at : at + id_length].decode()
        at += id_length
        model = payload[at : at + model_length].decode()
        at += model_length
        yield Request(ticket, id, number, payload[at : at + length], turn, model)
        at += length


def outcomes(batch: Iterable[Outcome]) -> Iterator[bytes]:
    """Yield frames that carry these outcomes."""
    return _frames(Kind.OUTCOMES, map(_outcome, batch))


def _outcome(outcome: Outcome) -> tuple[bytes, bytes]:
    tokens = (outcome.input_tokens, outcome.cached_tokens, outcome.output_tokens, outcome.reasoning_tokens)
    return _OUTCOME.pack(outcome.ticket, outcome.is_error, *tokens, len(outcome.line)), outcome.line


def read_outcomes(payload: bytes) -> Iterator[Outcome]:
    at = 0
    while at < len(payload):
        ticket, is_error, *tokens, length = _OUTCOME.unpack_from(payload, at)
        at += _OUTCOME.size
        yield Outcome(ticket, payload[at : at + length], bool(is_error), *tokens)
        at += length


def tickets(kind: Kind, of: Sequence[int]) -> Iterator[bytes]:
    """Yield frames that name these requests."""
    if of:
        yield frame(kind, b"".join(map(_TICKET.pack, of)))


def read_tickets(payload: bytes) -> Iterator[int]:
    return (ticket for (ticket,) in _TICKET.iter_unpack(payload))


class Inbound:
    """Puts a stream's pieces together into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Kind, bytes]]:
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= _FRAME.size:
            length, kind = _FRAME.unpack_from(self._buffer, at)
            end = at + _FRAME.size + length
            if len(self._buffer) < end:
                break
            yield Kind(kind), bytes(self._buffer[at + _FRAME.size : end])
            at = end
        del self._buffer[:at]
