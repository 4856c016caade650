"""The frozen types that cross borders between modules. No behaviour beyond reading themselves, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

# A ticket names one request of one batch within this process: the batch's slot above, the request's place in its file
# below. It travels to the engine and back as one integer, so neither side keeps a table.
_PLACE_BITS = 40
_PLACE_MASK = (1 << _PLACE_BITS) - 1


def ticket(slot: int, place: int) -> int:
    """Return the ticket of the request at `place` (0-based, faulty lines counted) of the batch in `slot`."""
    return slot << _PLACE_BITS | place


def slot_of(ticket: int) -> int:
    return ticket >> _PLACE_BITS


def place_of(ticket: int) -> int:
    return ticket & _PLACE_MASK


class BatchStatus(StrEnum):
    """The states of OpenAI's batch object that a batch here can be in."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.CANCELLED)


class EngineState(StrEnum):
    OFF = "off"
    LOADING = "loading"
    READY = "ready"
    BACKING_OFF = "backing_off"


@dataclass(frozen=True, slots=True)
class Fault:
    """Why one line of a file is no request that can be run; the words of OpenAI's `errors.data[]`."""

    code: str
    message: str
    param: str | None = None
    custom_id: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One request on its way to the engine.

    Attributes:
        id: of the output line that will answer it.
        number: 1-based line in the user's file.
        line: the user's own JSON.
    """

    ticket: int
    id: str
    number: int
    line: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request: a whole output line, newline included, ready to be appended."""

    ticket: int
    line: bytes
    is_error: bool = False
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a loaded engine says of itself.

    Attributes:
        in_flight: requests that keep its queue full; more would only cost memory.
        max_seqs: requests that it computes at a time, over all replicas.
    """

    kind: str
    version: str
    model: str
    in_flight: int
    max_seqs: int
    settings: dict[str, Any] = field(default_factory=dict)
    gpus: tuple[str, ...] = ()
    load_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The engine's own counters, sent about once a second. Counters start at 0 with each engine."""

    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    preemptions: int = 0
