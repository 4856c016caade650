"""NVML: the GPUs of this host, sampled. The only importer of pynvml.

NVML calls can block for ever in the driver, so this runs only where that hurts nobody: as a child of the daemon
(`python -m inbox_daemon.machine.nvml SECONDS`, one JSON line a sample on stdout) and in the worker. No GPU, no driver,
a GPU that is gone: each is an answer with a name, none an exception.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pynvml

from inbox_daemon.machine.parent import tie_to_parent
from inbox_daemon.records import GpuDevice, Gpus, GpuState
from inbox_daemon.text import shown

T = TypeVar("T")

# What holds the clocks down, by NVML's bits (nvml.h, nvmlClocksEventReasons); 1 (idle) is no such thing.
_THROTTLE = {
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
_MEGA = 1_000_000
_GONE = (pynvml.NVMLError_GpuIsLost, pynvml.NVMLError_ResetRequired)
_MOST_BYTES, _MOST_WATTS = 1 << 44, 20_000.0  # more than any GPU has
_MOST_JOULES = 1e13  # more than one spends in ten years


def present() -> bool:
    """Say whether this host has anything of NVIDIA's, without asking the driver: never blocks."""
    if Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists():
        return True
    for device in Path("/sys/bus/pci/devices").glob("*"):
        with suppress(OSError):
            if (device / "vendor").read_text().strip() == "0x10de" and (device / "class").read_text()[:4] == "0x03":
                return True
    return False


def driver() -> str:
    """Return the version of NVIDIA's driver; "" where there is none."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ""
    try:
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return ""
    finally:
        pynvml.nvmlShutdown()


class Watch:
    """NVML, initialised, with the Xid errors that it has reported since. Raises NVMLError where NVML does not start."""

    def __init__(self) -> None:
        pynvml.nvmlInit()
        self._xids: dict[int, tuple[int, float]] = {}  # GPU's index -> (Xid, Unix seconds)
        self._seen: set[int] = set()  # indices of those that have answered: only these can be lost
        self._events: Any = None
        with suppress(pynvml.NVMLError):
            events = pynvml.nvmlEventSetCreate()
            for index in range(pynvml.nvmlDeviceGetCount()):
                device = pynvml.nvmlDeviceGetHandleByIndex(index)
                pynvml.nvmlDeviceRegisterEvents(device, pynvml.nvmlEventTypeXidCriticalError, events)
            self._events = events

    def sample(self) -> Gpus:
        """Ask for everything. A GPU that has answered and no longer does makes the whole LOST, and is left out.

        One that never has is left out, too: it is not for this service, or beyond what this NVML can read.
        """
        try:
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            return Gpus(GpuState.LOST, time.time(), f"NVML no longer counts GPUs: {error}")
        devices, problems, lost = [], [], False
        for index in range(count):
            try:
                devices.append(self._device(index))
                self._seen.add(index)
            except Exception as error:  # NVML's, or of reading what the driver has given it
                problems.append(f"GPU {index}: {error or type(error).__name__}")
                lost |= index in self._seen or isinstance(error, _GONE)
        state = GpuState.LOST if lost else GpuState.OK if devices else GpuState.ABSENT
        return Gpus(state, time.time(), "; ".join(problems) or None, tuple(devices))

    def sleep(self, seconds: float) -> None:
        """Wait, at most until an Xid error arrives, which the next sample then has; a second at the least."""
        if self._events is None:
            time.sleep(seconds)
            return
        began = time.monotonic()
        try:
            event = pynvml.nvmlEventSetWait_v2(self._events, int(seconds * 1000))
            self._xids[pynvml.nvmlDeviceGetIndex(event.device)] = (int(event.eventData), time.time())
        except pynvml.NVMLError_Timeout:
            return
        except Exception:
            self._events = None  # no events on this GPU, or no longer; the samples go on
            time.sleep(seconds)
        time.sleep(max(0.0, min(1.0, seconds) - (time.monotonic() - began)))  # Xids may come by the thousand

    def _device(self, index: int) -> GpuDevice:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        name = _asked(lambda: str(pynvml.nvmlDeviceGetName(handle)))
        memory = _asked(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
        total = _within(1, memory and int(memory.total), _MOST_BYTES)
        kind, counter = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
        bits = _asked(lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)) or 0
        running = _asked(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(handle)) or []
        clock = _within(0, _asked(lambda: int(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM))), 10_000)
        xid, xid_at = self._xids.get(index, (None, None))
        return GpuDevice(
            index=index,
            uuid=_asked(lambda: str(pynvml.nvmlDeviceGetUUID(handle))) or f"index {index}",
            name=shown(name) if name else "a GPU without a name",
            utilization=_within(0, _asked(lambda: float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100), 1),
            memory_used_bytes=_within(0, memory and int(memory.used), total or 0),
            memory_total_bytes=total,
            temperature_celsius=_within(
                -50, _asked(lambda: float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))), 200
            ),
            power_watts=_within(0, _asked(lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000), _MOST_WATTS),
            power_limit_watts=_within(
                1, _asked(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000), _MOST_WATTS
            ),
            sm_clock_hertz=clock * _MEGA if clock is not None else None,
            throttle=tuple(name for bit, name in _THROTTLE.items() if bits & bit),
            ecc_uncorrected=_within(
                0, _asked(lambda: int(pynvml.nvmlDeviceGetTotalEccErrors(handle, kind, counter))), 1 << 40
            ),
            energy_joules=_within(
                0, _asked(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000), _MOST_JOULES
            ),
            xid=xid,
            xid_at=xid_at,
            processes=tuple(
                {"pid": p.pid, "memory_bytes": _within(0, p.usedGpuMemory, total or _MOST_BYTES)} for p in running
            ),
        )


N = TypeVar("N", int, float)


def _within(least: float, value: N | None, most: float) -> N | None:
    """Return the value; None where it is none that a GPU can have: drivers give -1 as an unsigned number, and worse."""
    return value if value is not None and least <= value <= most else None


def _asked(question: Callable[[], T]) -> T | None:
    """Return the answer, None where there is none that can be read. Raises NVMLError where the GPU itself is gone."""
    try:
        return question()
    except _GONE:
        raise
    except Exception:  # not supported, or a text that is not UTF-8
        return None


def _unusable(error: pynvml.NVMLError) -> Gpus:
    """Say why NVML does not start."""
    return Gpus(GpuState.NO_DRIVER if present() else GpuState.ABSENT, time.time(), f"NVML: {error}")


def main() -> None:
    """Print a sample every so many seconds until the parent dies; end after one that says that NVML is unusable."""
    tie_to_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the daemon's alone
    every = float(sys.argv[1])

    def say(gpus: Gpus) -> None:
        sys.stdout.buffer.write(orjson.dumps(asdict(gpus)) + b"\n")
        sys.stdout.buffer.flush()

    try:
        watch = Watch()
    except pynvml.NVMLError as error:
        say(_unusable(error))
        return
    while True:
        say(watch.sample())
        watch.sleep(every)


if __name__ == "__main__":
    main()
