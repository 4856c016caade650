"""The frozen types that cross borders between modules. No behaviour beyond reading themselves, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

# A ticket names one request of one batch within this process: the batch's number above, the request's place in its file
# below. It travels to the engine and back as one integer, so neither side keeps a table.
_PLACE_BITS = 40
_PLACE_MASK = (1 << _PLACE_BITS) - 1


def ticket(number: int, place: int) -> int:
    """Return the ticket of the request at `place` (0-based, faulty lines counted) of the batch of this `number`."""
    return number << _PLACE_BITS | place


def number_of(ticket: int) -> int:
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
    ASLEEP = "asleep"


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
        turn: when it is to be computed, against others that the engine has: the lower, the sooner.
        model: that is to answer it, an adapter perhaps; "": whichever the engine has.
    """

    ticket: int
    id: str
    number: int
    line: bytes
    turn: int = 0
    model: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request: a whole output line, newline included, ready to be appended.

    Attributes:
        reasoning_tokens: how many of the output tokens the model has thought with, where the answer says so.
    """

    ticket: int
    line: bytes
    is_error: bool = False
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a loaded engine says of itself.

    Attributes:
        in_flight: requests that keep its queue full; more would only cost memory.
        max_seqs: requests that it computes at a time, over all replicas.
        gpus: names of those it computes on, with their driver's version; () on a CPU.
        replicas: copies of the model that answer.
        weights_bytes: as they lie on the disk; None where nothing says so.
    """

    kind: str
    version: str
    model: str
    in_flight: int
    max_seqs: int
    settings: dict[str, Any] = field(default_factory=dict)
    gpus: tuple[str, ...] = ()
    load_seconds: float = 0.0
    replicas: int = 1
    weights_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The engine's own counters, sent about once a second. Counters start at 0 with each engine."""

    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    preemptions: int = 0


class GpuState(StrEnum):
    """What NVML has to say as a whole; none of these is an exception."""

    ABSENT = "absent"  # this host has no NVIDIA GPU
    NO_DRIVER = "no_driver"  # it has one, or its library, and the driver does not answer to it
    OK = "ok"
    LOST = "lost"  # a GPU was there and is gone: fallen off the bus, or taken away from this service
    SILENT = "silent"  # NVML has not answered within its deadline


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """One GPU at one moment, in base units; None where NVML does not support the value on it.

    Attributes:
        utilization: share of time in which a kernel ran, 0 to 1; says nothing about progress.
        throttle: why its clocks are held down, in NVML's words.
        ecc_uncorrected: memory errors since the driver was loaded.
        energy_joules: spent since the driver was loaded.
        xid: the last Xid error since the daemon started, and `xid_at` when (Unix seconds).
        processes: (pid, bytes of its memory or None) of what computes on it.
    """

    index: int
    uuid: str
    name: str
    utilization: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    sm_clock_hertz: int | None = None
    throttle: tuple[str, ...] = ()
    ecc_uncorrected: int | None = None
    energy_joules: float | None = None
    xid: int | None = None
    xid_at: float | None = None
    processes: tuple[dict[str, int | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Gpus:
    """All GPUs of this host at one moment. `at` is in Unix seconds, `problem` for people."""

    state: GpuState = GpuState.ABSENT
    at: float = 0.0
    problem: str | None = None
    devices: tuple[GpuDevice, ...] = ()


@dataclass(frozen=True, slots=True)
class Host:
    """Memory and the spool's disk. Memory is a share of the cgroup's limit where there is one, else of the host's."""

    memory_used_ratio: float | None = None
    disk_used_ratio: float = 0.0
    disk_free_bytes: int = 0


class AlertName(StrEnum):
    """Every alert there is; Prometheus's rules have the same names with InboxDaemon before them."""

    NO_PROGRESS = "NoProgress"
    GPU_UTILIZATION_LOW = "GpuUtilizationLow"
    HOST_MEMORY_HIGH = "HostMemoryHigh"
    DISK_HIGH = "DiskHigh"
    DISK_WILL_FILL = "DiskWillFill"
    GPU_MEMORY_HIGH = "GpuMemoryHigh"
    ENGINE_RESTARTING = "EngineRestarting"
    BATCH_PARKED = "BatchParked"
    BATCH_LATE = "BatchLate"
    FILES_FAILING = "FilesFailing"
    UPLOAD_STUCK = "UploadStuck"
    GPU_XID = "GpuXid"
    GPU_LOST = "GpuLost"
    GPU_SILENT = "GpuSilent"
    GPU_THROTTLED = "GpuThrottled"


class Severity(StrEnum):
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing that is wrong and has been for as long as its rule asks. `since` is in Unix seconds.

    Attributes:
        batch: the one batch that it concerns, if it is only one.
    """

    name: AlertName
    severity: Severity
    since: float
    text: str
    batch: str | None = None
