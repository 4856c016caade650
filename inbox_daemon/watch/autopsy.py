"""What is written down before a hung engine is killed: what its processes were doing, and with what.

A child looks at the processes (`stacks`) and has a deadline; the loop never waits for it. No prompt and no answer is in
it: requests are named by line and custom_id, stacks by file and line.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from inbox_daemon.engine import Evidence
from inbox_daemon.records import GpuDevice, Gpus
from inbox_daemon.text import shown

WITHIN = 20.0  # seconds; what is not known by then stays unknown
_READ = 1 << 16


@dataclass(frozen=True, slots=True)
class Scene:
    """What the daemon itself knows when it decides that an engine hangs."""

    reason: str
    engine: Mapping[str, Any]
    gpus: Gpus
    evidence: Evidence


class Autopsy:
    """One look at one engine. `now` is monotonic seconds throughout."""

    def __init__(self, scene: Scene, now: float) -> None:
        self.scene = scene
        self._until = now + WITHIN
        self._found = b""
        self._child: subprocess.Popen[bytes] | None = None
        self._note = ""
        if scene.evidence.pid is None:
            self._note = "the engine has no processes of its own"
            return
        command = [
            sys.executable,
            "-P",
            "-m",
            "inbox_daemon.watch.stacks",
            str(scene.evidence.pid),
            scene.evidence.folder,
        ]
        try:
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        except OSError as error:
            self._note = f"no process for looking at it: {error.strerror}"
            return
        assert self._child.stdout is not None
        os.set_blocking(self._child.stdout.fileno(), False)

    def look(self, now: float) -> str | None:
        """Return what was found of the processes, None while that is still being found out."""
        if self._child is None:
            return self._note
        assert self._child.stdout is not None
        ended = False
        with suppress(BlockingIOError):
            while data := os.read(self._child.stdout.fileno(), _READ):
                self._found += data
            ended = True
        if not ended and now < self._until:
            return None
        if not ended:
            self._note = f"\n(cut short after {WITHIN:.0f} s)"
        self.end()
        return self._found.decode(errors="replace").strip() + self._note

    def end(self) -> None:
        if self._child is not None and self._child.stdout is not None:
            self._child.kill()
            self._child.stdout.close()
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(0.2)


def report(scene: Scene, processes: str, in_flight: int, named: Sequence[tuple[int, str]], wall: float) -> str:
    """Return the autopsy's text for one batch.

    Args:
        in_flight: how many of the batch's requests the engine had.
        named: (line, custom_id) of them, or of the first of them.
        wall: Unix seconds.
    """
    when = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(wall))
    sections = {
        "what": f"{when}\n{scene.reason}",
        "engine": _pairs(scene.engine),
        "gpus": _gpus(scene.gpus),
        "in flight": _in_flight(in_flight, named),
        "processes": processes,
        "the engine's last log lines": "\n".join(scene.evidence.log) or "none",
    }
    return "\n\n".join(f"# {title}\n\n{text}" for title, text in sections.items()) + "\n"


def _pairs(values: Mapping[str, Any]) -> str:
    return "\n".join(f"{key}: {value}" for key, value in values.items())


def _gpus(gpus: Gpus) -> str:
    head = f"state: {gpus.state.value}" + (f" ({gpus.problem})" if gpus.problem else "")
    if not gpus.devices:
        return head
    taken = time.strftime("%H:%M:%S", time.localtime(gpus.at))
    return f"{head}, sampled at {taken}\n\n" + "\n\n".join(_pairs(_known(device)) for device in gpus.devices)


def _known(device: GpuDevice) -> dict[str, Any]:
    return {key: value for key, value in asdict(device).items() if value is not None}


def _in_flight(count: int, named: Sequence[tuple[int, str]]) -> str:
    lines = [f"{count} requests of this batch" + (f", the first {len(named)}:" if len(named) < count else ":")]
    return "\n".join(lines + [f"  line {number}: {shown(custom_id)}" for number, custom_id in named])
