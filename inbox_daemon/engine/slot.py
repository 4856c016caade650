"""The one engine that the daemon has, or none: loaded when needed, let go when idle, replaced after a death.

Owns back-off and the rule that a new engine starts only when the last one's processes are gone (they hold the GPU).
Never decides that an engine is unhealthy; it is told to `kill`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from inbox_daemon.engine import Engine, Evidence
from inbox_daemon.errors import ConfigError, EngineDied
from inbox_daemon.journal import Message, of_engine, tell
from inbox_daemon.records import EngineInfo, EngineState, EngineStats, Outcome, Request

log = logging.getLogger(__name__)

_BACK_OFF = (1.0, 2.0, 5.0, 15.0, 60.0, 300.0)  # seconds before the next start, by loads in a row that failed


class EngineSlot:
    """Times are monotonic seconds.

    Args:
        make: starts the engine of this number (1-based). May raise OSError, which counts as a death while loading.

    Attributes:
        starts, deaths: in the life of this daemon.
        failures: engines in a row that died before they were ready. One that dies at work is replaced without
            delay: who seeks the request that killed it has many deaths to learn from.
        last_death: why the last engine ended, until another one is ready.
    """

    def __init__(self, make: Callable[[int], Engine], idle_unload: float) -> None:
        self._make = make
        self._idle_unload = idle_unload
        self._engine: Engine | None = None
        self._ending: Engine | None = None
        self._unstarted: EngineDied | None = None  # until `receive` has said so
        self._kill_reason: str | None = None
        self._not_before = 0.0
        self._idle_since: float | None = None
        self._wanted = False
        self._was_ready = False
        self.last_info: EngineInfo | None = None
        self.last_death: EngineDied | None = None
        self.failures = 0
        self.starts = 0
        self.deaths = 0

    @property
    def state(self) -> EngineState:
        if self._engine is not None:
            return EngineState.READY if self._engine.info else EngineState.LOADING
        return EngineState.BACKING_OFF if self.last_death and self._wanted else EngineState.OFF

    @property
    def back_off(self) -> float:
        """Seconds from the last death to the next start."""
        return _BACK_OFF[min(self.failures, len(_BACK_OFF)) - 1] if self.failures else 0.0

    @property
    def phase(self) -> str:
        """What it is doing, for people: empty where the state says it all."""
        if self._ending is not None:
            return "waiting for the last engine's processes to end"
        return self._engine.phase if self._engine else ""

    @property
    def info(self) -> EngineInfo | None:
        return self._engine.info if self._engine else None

    @property
    def stats(self) -> EngineStats:
        return self._engine.stats if self._engine else EngineStats()

    @property
    def _say(self) -> logging.LoggerAdapter[logging.Logger]:
        return of_engine(log, self.starts)

    def evidence(self) -> Evidence:
        return self._engine.evidence() if self._engine else Evidence()

    def quiet_for(self) -> float:
        return self._engine.quiet_for() if self._engine else 0.0

    def fileno(self) -> int | None:
        return self._engine.fileno() if self._engine else None

    def ensure(self, wanted: bool, now: float) -> None:
        """Start an engine where one is wanted and may start; end one that has been idle for long enough."""
        self._wanted = wanted
        if self._ending is not None and self._ending.gone():
            self._ending = None
        if self._engine is None:
            if wanted and self._ending is None and now >= self._not_before:
                self.starts += 1
                self._was_ready = False
                self._say.info("engine starting (%d)", self.starts, extra=tell(Message.ENGINE_STARTING))
                try:
                    self._engine = self._make(self.starts)
                except OSError as error:
                    self._unstarted = EngineDied(f"it cannot be started: {error}")
            return
        if wanted:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif self._idle_unload and now - self._idle_since >= self._idle_unload:
            self._say.info("engine let go after %.0f s without work", now - self._idle_since)
            self.end()

    def room(self) -> int:
        return self._engine.room() if self._engine and not self._kill_reason else 0

    def room_for_bytes(self) -> int:
        return self._engine.room_for_bytes() if self._engine else 0

    def send(self, requests: Sequence[Request]) -> None:
        if self._engine is not None:
            self._engine.send(requests)

    def receive(self, now: float) -> list[Outcome]:
        """Return what has arrived. Raises EngineDied once for each death, however it came about."""
        try:
            outcomes = self._received()
        except EngineDied as died:
            reason = self._kill_reason or died.reason
            self.last_death = EngineDied(reason, died.log)
            self.deaths += 1
            self.failures = 0 if self._was_ready else self.failures + 1
            self._not_before = now + self.back_off
            self.end()
            raise self.last_death from died
        if (info := self.info) and not self._was_ready:
            self._was_ready = True
            self.failures = 0
            self.last_info = info
            self.last_death = None
            told = (info.kind, info.version, info.model, info.max_seqs, info.load_seconds)
            self._say.info(
                "engine ready: %s %s, %s, %d requests at a time, loaded in %.0f s",
                *told,
                extra=tell(Message.ENGINE_READY),
            )
        return outcomes

    def _received(self) -> list[Outcome]:
        if self._unstarted is not None:
            raise self._unstarted
        if self._engine is None:
            return []
        try:
            outcomes = self._engine.receive()
        except ConfigError as wrong:
            if self.last_info is None:
                raise
            raise EngineDied(str(wrong)) from wrong  # it was right once: a GPU is lost, and may come back
        if self._kill_reason and not outcomes:
            raise EngineDied(self._kill_reason)
        return outcomes

    def kill(self, reason: str) -> None:
        """End an engine that is no good; the next `receive` raises EngineDied with this reason."""
        if self._engine is not None and not self._kill_reason:
            self._kill_reason = reason

    def end(self) -> None:
        """Let the engine go, with every process it started."""
        if self._engine is not None:
            self._engine.kill()
            self._ending, self._engine = self._engine, None
        self._kill_reason = self._unstarted = None
        self._idle_since = None

    @property
    def ended(self) -> bool:
        if self._ending is not None and self._ending.gone():
            self._ending = None
        return self._engine is None and self._ending is None
