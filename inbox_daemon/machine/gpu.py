"""The daemon's side of GPU sampling: a child asks NVML (`nvml`), this reads what it says and never waits for it.

Owns the child's life: started where there is a GPU, killed when it has not answered within the deadline, started again
with a growing pause. Knows no NVML and raises nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson

from inbox_daemon.records import GpuDevice, Gpus, GpuState

ANSWERS_WITHIN = 30.0  # seconds for a sample, the driver's start included (seconds a GPU, without persistence mode)
_BACK_OFF = (5.0, 15.0, 60.0, 300.0)  # seconds before the next child, by children in a row that gave no good sample
_LOOK_AGAIN = 60.0  # seconds between looks for a GPU where there was none
_READ = 1 << 16


class Sampler:
    """Args:

    every: seconds between samples; 0: none is ever taken.
    present: whether this host has a GPU at all, cheaply.
    command: what prints one JSON line a sample; the seconds are added to it.
    """

    def __init__(
        self,
        every: float,
        present: Callable[[], bool],
        *,
        command: Sequence[str] = (sys.executable, "-P", "-m", "inbox_daemon.machine.nvml"),
        answers_within: float = ANSWERS_WITHIN,
    ) -> None:
        self._every = every
        self._present = present
        self._command = command
        self._within = answers_within + every
        self._child: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._partial = b""
        self._not_before = 0.0
        self._heard_at = 0.0
        self._bad = 0
        self._last = Gpus()
        self._known: dict[str, GpuDevice] = {}  # by UUID, as last seen

    def look(self, now: float, wall: float) -> Gpus:
        """Return what is known. Never blocks. `now` is monotonic seconds, `wall` Unix seconds."""
        if not self._every:
            return self._last
        if self._child is None:
            if now >= self._not_before:
                self._start(now, wall)
            return self._last
        self._read(now)
        if self._child.poll() is not None:
            self._read(now)
            self._over(now, wall)
        elif now - self._heard_at > self._within:
            if not self._killed:
                self._killed = True
                self._child.kill()  # one that hangs in the driver stays until the driver lets go; no other joins it
            self._last = self._silent(f"NVML has not answered for {now - self._heard_at:.0f} s", wall)
        return self._last

    def stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            assert self._child.stdout is not None
            self._child.stdout.close()
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(0.5)
            self._child = None

    def _start(self, now: float, wall: float) -> None:
        if not self._present():
            self._take(Gpus(GpuState.ABSENT, wall))
            self._not_before = now + _LOOK_AGAIN
            return
        try:
            self._child = subprocess.Popen(
                [*self._command, str(self._every)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:  # no memory, no process to be had: what is monitored goes on
            self._last = self._silent(f"no process for NVML: {error.strerror}", wall)
            self._later(now)
            return
        assert self._child.stdout is not None
        os.set_blocking(self._child.stdout.fileno(), False)
        self._killed, self._partial, self._heard_at = False, b"", now

    def _read(self, now: float) -> None:
        assert self._child is not None and self._child.stdout is not None
        with suppress(BlockingIOError):
            while data := os.read(self._child.stdout.fileno(), _READ):
                *lines, self._partial = (self._partial + data).split(b"\n")
                for line in lines:
                    if (gpus := read(line)) is not None:
                        self._heard_at = now
                        self._bad = 0 if gpus.state is GpuState.OK else self._bad
                        self._take(gpus)

    def _over(self, now: float, wall: float) -> None:
        assert self._child is not None and self._child.stdout is not None
        self._child.stdout.close()
        status, self._child = self._child.returncode, None
        if status and not self._killed:
            self._last = self._silent(f"what asks NVML ended with status {status}", wall)
        self._later(now)

    def _later(self, now: float) -> None:
        self._bad += 1
        self._not_before = now + _BACK_OFF[min(self._bad, len(_BACK_OFF)) - 1]

    def _silent(self, problem: str, wall: float) -> Gpus:
        """Nothing new is known: the last devices stay, with the time at which they were seen."""
        return replace(self._last, state=GpuState.SILENT, problem=problem, at=self._last.at or wall)

    def _take(self, gpus: Gpus) -> None:
        """Note a sample. What was seen once and is gone is lost, whatever NVML says of what is left."""
        fresh = []
        for device in gpus.devices:
            earlier = self._known.get(device.uuid, device)
            seen = device if device.xid is not None else earlier  # a new child has not seen what the last one saw
            self._known[device.uuid] = replace(device, xid=seen.xid, xid_at=seen.xid_at)
            fresh.append(self._known[device.uuid])
        gone = [known for uuid, known in self._known.items() if uuid not in {device.uuid for device in fresh}]
        if gone:
            missing = ", ".join(f"GPU {device.index} ({device.uuid})" for device in gone)
            problem = f"gone: {missing}" + (f"; {gpus.problem}" if gpus.problem else "")
            gpus = replace(gpus, state=GpuState.LOST, problem=problem)
        self._last = replace(gpus, devices=tuple(fresh))


def read(line: bytes) -> Gpus | None:
    """Read one line of the child's; None where it is none."""
    try:
        value: dict[str, Any] = orjson.loads(line)
        devices = [
            GpuDevice(**device | {"throttle": tuple(device["throttle"]), "processes": tuple(device["processes"])})
            for device in value["devices"]
        ]
        return Gpus(GpuState(value["state"]), float(value["at"]), value["problem"], tuple(devices))
    except (ValueError, KeyError, TypeError):
        return None
