"""The engine as the daemon sees it. Another kind of engine is another file in this package and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from inbox_daemon.records import EngineInfo, EngineStats, Outcome, Request


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where an autopsy may look.

    Attributes:
        pid: of the process that all others of the engine come from; None where it has none.
        folder: where its processes show their stacks (`layout.stacks_file`).
        log: the last lines that it wrote, oldest first.
    """

    pid: int | None = None
    folder: str = ""
    log: tuple[str, ...] = ()


class Engine(Protocol):
    """Computes requests. Made by loading, ended only by `kill`; a dead one is replaced, never mended."""

    @property
    def info(self) -> EngineInfo | None:
        """What it says of itself once it is loaded; None while it loads."""

    @property
    def stats(self) -> EngineStats:
        """Its own counters, as last reported."""

    @property
    def phase(self) -> str:
        """What it is doing while it loads, in a few words for people."""

    def fileno(self) -> int | None:
        """A descriptor that is readable when `receive` has something, or None when it always may."""

    def room(self) -> int:
        """How many more requests keep its queue full; 0 while it loads."""

    def room_for_bytes(self) -> int:
        """How many bytes of requests it takes beside those it has; the last request of them may be longer."""

    def send(self, requests: Sequence[Request]) -> None:
        """Hand requests over. Never blocks. What was handed over comes back from `receive`, or the engine dies."""

    def receive(self) -> list[Outcome]:
        """Return the outcomes that have arrived; [] when none has. Never blocks.

        Raises:
            EngineDied: it crashed, was killed, or could not be loaded. Raised again at every later call.
        """

    def evidence(self) -> Evidence:
        """Return where to look when it hangs."""

    def quiet_for(self) -> float:
        """Seconds for which a part of it has had requests and done nothing for them, whatever its other parts do."""

    def kill(self) -> None:
        """End it and every process it started, whatever state it is in. Does not wait for that: see `gone`."""

    def gone(self) -> bool:
        """After `kill`: whether every process of it has ended, and with it what it held of the GPU."""


__all__ = ["Engine", "Evidence"]
