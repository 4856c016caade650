"""Is the work making progress? Progress, engine state and the clock in, one verdict out.

Pure. Progress is any change in what was finished, generated or read (tokens), never GPU utilisation: a GPU in a dead
loop reads 100 %. Acts on nothing; the daemon does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from inbox_daemon.records import EngineState


@dataclass(frozen=True, slots=True)
class Progress:
    """What is known at one moment. `marks` may hold anything that changes when work advances."""

    engine: EngineState
    in_flight: int
    marks: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong, if anything. `kill` asks for the engine to be killed and restarted."""

    kill: str | None = None


@dataclass(slots=True)
class Health:
    """Judges successive moments. Times are monotonic seconds.

    Attributes:
        load_timeout: how long an engine may load.
        stall_after: how long requests may be in flight without any mark changing.
    """

    load_timeout: float
    stall_after: float
    _marks: tuple[Any, ...] = ()
    _engine: EngineState = EngineState.OFF
    _since: float = field(default=0.0)

    def judge(self, progress: Progress, now: float) -> Verdict:
        if progress.engine != self._engine or progress.marks != self._marks or not self._working(progress):
            self._engine, self._marks, self._since = progress.engine, progress.marks, now
            return Verdict()
        silent = now - self._since
        if progress.engine is EngineState.LOADING and silent > self.load_timeout:
            return Verdict(kill=f"still loading after {silent:.0f} s (engine.load_timeout)")
        if progress.engine is EngineState.READY and silent > self.stall_after:
            stuck = f"{progress.in_flight} requests in flight and no progress for {silent:.0f} s"
            return Verdict(kill=f"{stuck} (engine.stall_after)")
        return Verdict()

    @staticmethod
    def _working(progress: Progress) -> bool:
        return progress.engine is EngineState.LOADING or (
            progress.engine is EngineState.READY and progress.in_flight > 0
        )
