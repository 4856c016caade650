"""An engine as the daemon sees it: one copy of one model, on its GPUs. `open` knows which kinds there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from inbox_daemon.records import EngineInfo, EngineStats, Outcome, Request


@dataclass(frozen=True, slots=True)
class Place:
    """Where one of several engines lives.

    Attributes:
        number: its own, from 1.
        of: how many there are.
        gpus: its GPUs as CUDA_VISIBLE_DEVICES names them; "": nothing was shared out.
    """

    number: int
    of: int
    gpus: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where an autopsy may look.

    Attributes:
        pid: of the process that all others of the engine come from; None where it has none.
        folder: where its processes show their stacks (`stacks_file`).
        log: the last lines that it wrote, oldest first.
    """

    pid: int | None = None
    folder: str = ""
    log: tuple[str, ...] = ()


class Engine(Protocol):
    """Computes requests. Made by loading, ended only by `kill`; a dead one is replaced, never mended."""

    @property
    def places(self) -> Sequence[str]:
        """The GPUs of each engine that there is to be, as the first one finds while it loads: its own stand first.

        () until it has found them, and for every engine that was given its place.
        """

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

    @property
    def unsent(self) -> bool:
        """Whether something waits until the descriptor takes more."""

    def room(self) -> int:
        """How many more requests keep its queue full; 0 while it loads."""

    def room_for_bytes(self) -> int:
        """How many bytes of requests it takes beside those it has; the last request of them may be longer."""

    def send(self, requests: Sequence[Request]) -> None:
        """Hand requests over. Never blocks. Each comes back once, from `receive` or `recalled`, or the engine dies."""

    def receive(self) -> list[Outcome]:
        """Return the outcomes that have arrived; [] when none has. Never blocks.

        Raises:
            EngineDied: it crashed, was killed, or could not be loaded. Raised again at every later call.
        """

    def recall(self, tickets: Sequence[int]) -> None:
        """Ask for requests back: it stops computing them. One that it has answered already is no longer there."""

    def recalled(self) -> list[int]:
        """Return the tickets that have come back unanswered since the last call. To be asked after `receive`."""

    @property
    def asleep(self) -> bool:
        """Whether it has given its GPU's memory back, from when it has said so until it is awake."""

    def sleep(self) -> None:
        """Have it give its GPU's memory back. To be asked of one that can (`info.settings`) and has no request."""

    def wake(self) -> None:
        """Have it take requests again. To be asked of one that is asleep."""

    def evidence(self) -> Evidence:
        """Return where to look when it hangs."""

    def kill(self) -> None:
        """End it and every process it started, whatever state it is in. Does not wait for that: see `gone`."""

    def gone(self) -> bool:
        """After `kill`: whether every process of it has ended, and with it what it held of the GPU."""


__all__ = ["Engine", "Evidence", "Place"]


def stacks_file(temporary: Path, pid: int) -> Path:
    """Where a process of the engine shows its stacks, in the folder that the engine has for such things."""
    return temporary / f"stacks-{pid}.txt"


def at_work_file(temporary: Path) -> Path:
    """What is there once the engine's processes have requests, in the folder that the engine has for such things."""
    return temporary / "at-work"
