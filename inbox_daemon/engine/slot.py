"""Where an engine of one model may live, or none does: loaded when needed, let go when idle, replaced after a death.

Owns back-off and the rule that a new engine starts only when the last one's processes are gone (they hold the GPU).
Never decides that an engine is unhealthy; it is told to `kill`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

from inbox_daemon.engine import Engine, Evidence
from inbox_daemon.errors import ConfigError, EngineDied
from inbox_daemon.journal import Message, of_engine, tell
from inbox_daemon.records import EngineInfo, EngineState, EngineStats, Outcome, Request

log = logging.getLogger(__name__)

_FALLING_ASLEEP, _ASLEEP, _WAKING = "falling asleep", "asleep", "waking"
_BACK_OFF = (1.0, 2.0, 5.0, 15.0, 60.0, 300.0)  # seconds before the next start, by loads in a row that failed


class Slot:
    """One engine's place, over all the engines that live there one after another. Times are monotonic seconds.

    Args:
        number: its own among the daemon's slots, from 1.
        model: which every engine here is a copy of.
        models: for which requests may be meant that it answers: itself, and its adapters.
        make: starts the engine of this number (counted over the daemon's life, from 1) in this slot. May raise
            OSError, which counts as a death while loading.
        alone: no other model is configured: settings that cannot be right are a ConfigError; else, a death.

    Attributes:
        name: for people: "engine", or "engine 2" where there are several.
        start: the number of the engine that is here or was the last one; 0 before the first.
        starts, deaths: in the life of this daemon.
        failures: engines in a row that died before they were ready. One that dies at work is replaced without
            delay: who seeks the request that killed it has many deaths to learn from.
        last_death: why the last engine ended, until another one is ready.
        hopeless: why no other try will load the model, where the last one has shown that.
        not_before: when the next one may start.
    """

    def __init__(
        self, number: int, model: str, models: Collection[str], make: Callable[[int], Engine], alone: bool = True
    ) -> None:
        self.number, self.model, self.models = number, model, models
        self.name = "engine"
        self._make, self.alone = make, alone
        self._engine: Engine | None = None
        self._ending: Engine | None = None
        self._unstarted: EngineDied | None = None  # until `receive` has said so
        self._dozing = ""  # it is asleep, or on its way there or back, as `phase` says it
        self._woken_at = 0.0
        self._kill_reason: str | None = None
        self.not_before = 0.0
        self._idle_since: float | None = None
        self._wanted = False
        self._was_ready = False
        self.last_info: EngineInfo | None = None
        self.last_death: EngineDied | None = None
        self.hopeless: str | None = None
        self.failures = 0
        self.start = 0
        self.starts = 0
        self.deaths = 0

    @property
    def places(self) -> Sequence[str]:
        return self._engine.places if self._engine else ()

    @property
    def state(self) -> EngineState:
        if self._dozing == _ASLEEP:
            return EngineState.ASLEEP
        if self._engine is not None:
            return EngineState.READY if self.info else EngineState.LOADING
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
        return self._dozing or (self._engine.phase if self._engine else "")

    @property
    def info(self) -> EngineInfo | None:
        """What the engine says of itself while it takes requests: loaded, and not asleep."""
        return self._engine.info if self._engine and not self._dozing else None

    @property
    def asleep(self) -> bool:
        """Whether an engine is here that has given its GPU's memory back, but for a little."""
        return self._dozing == _ASLEEP

    @property
    def can_sleep(self) -> bool:
        return self.info is not None and bool(self.info.settings.get("enable_sleep_mode"))

    @property
    def stats(self) -> EngineStats:
        return self._engine.stats if self._engine else EngineStats()

    @property
    def _say(self) -> logging.LoggerAdapter[logging.Logger]:
        return of_engine(log, self.start)

    def evidence(self) -> Evidence:
        return self._engine.evidence() if self._engine else Evidence()

    def fileno(self) -> int | None:
        return self._engine.fileno() if self._engine else None

    @property
    def occupied(self) -> bool:
        """Whether an engine is here, loaded or not."""
        return self._engine is not None

    @property
    def unsent(self) -> bool:
        return self._engine is not None and self._engine.unsent

    def may_start(self, now: float) -> bool:
        """Whether the last engine has ended, and back-off is over."""
        return self.ended and self._unstarted is None and now >= self.not_before

    def begin(self, start: int) -> None:
        """Start the engine of this number. To be called when `may_start`."""
        self.start = start
        self.starts += 1
        self._was_ready = False
        self._say.info("%s starting (%d)", self.name, start, extra=tell(Message.ENGINE_STARTING))
        try:
            self._engine = self._make(start)
        except OSError as error:
            self._unstarted = EngineDied(f"it cannot be started: {error}")

    def idle(self, wanted: bool, idle_unload: float, now: float) -> None:
        """Let an engine go that nobody has `wanted` for `idle_unload` seconds; 0: never."""
        self._wanted = wanted
        if wanted or self._engine is None:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif idle_unload and now - self._idle_since >= idle_unload:
            self._say.info("%s let go after %.0f s without work", self.name, now - self._idle_since)
            self.end()

    def room(self) -> int:
        return self._engine.room() if self._engine and not self._kill_reason else 0

    def room_for_bytes(self) -> int:
        return self._engine.room_for_bytes() if self._engine else 0

    def send(self, requests: Sequence[Request]) -> None:
        if self._engine is not None:
            self._engine.send(requests)

    def recall(self, tickets: Sequence[int]) -> None:
        if self._engine is not None:
            self._engine.recall(tickets)

    def recalled(self) -> list[int]:
        return self._engine.recalled() if self._engine else []

    def receive(self, now: float, proven: bool) -> list[Outcome]:
        """Return what has arrived.

        Args:
            proven: whether an engine with these settings has been ready before, here or in another slot.

        Raises:
            EngineDied: once for each death, however it came about.
            ConfigError: vLLM does not accept the settings, and never has.
        """
        try:
            outcomes = self._received(proven)
        except EngineDied as died:
            reason = self._kill_reason or died.reason
            self.last_death = EngineDied(reason, died.log)
            self.deaths += 1
            self.failures = 0 if self._was_ready else self.failures + 1
            self.not_before = now + self.back_off
            self.end()
            raise self.last_death from died
        if (info := self.info) and not self._was_ready:
            self._was_ready = True
            self.failures = 0
            self.last_info = info
            self.last_death = None
            told = (info.kind, info.version, info.model, info.max_seqs, info.load_seconds)
            self._say.info(
                "%s ready: %s %s, %s, %d requests at a time, loaded in %.0f s",
                self.name,
                *told,
                extra=tell(Message.ENGINE_READY),
            )
        return outcomes

    def _received(self, proven: bool) -> list[Outcome]:
        if self._unstarted is not None:
            raise self._unstarted
        if self._engine is None:
            return []
        try:
            outcomes = self._engine.receive()
        except ConfigError as wrong:
            if not proven:
                self.hopeless = str(wrong)
                if self.alone:
                    raise
            raise EngineDied(str(wrong)) from wrong  # if it was right once, a GPU is lost, and may come back
        if self._kill_reason and not outcomes:
            raise EngineDied(self._kill_reason)
        if self._dozing == _FALLING_ASLEEP and self._engine.asleep:
            self._dozing = _ASLEEP
            self._say.info("%s is asleep", self.name)
        elif self._dozing == _WAKING and not self._engine.asleep:
            self._dozing = ""
            self._say.info("%s is awake", self.name)
        return outcomes

    def sleep(self) -> None:
        """Have the engine give its GPU's memory back. To be asked of one that can, and has no request."""
        if self._engine is not None:
            self._dozing = _FALLING_ASLEEP
            self._engine.sleep()

    def wake(self, now: float) -> None:
        """Have an engine that is asleep take requests again, once it has its memory back."""
        if self._engine is not None and self.asleep:
            self._dozing, self._woken_at = _WAKING, now
            self._engine.wake()

    def has_been_waking(self, now: float) -> float:
        """Return for how many seconds it has been on its way out of sleep; 0 where it is not."""
        return now - self._woken_at if self._dozing == _WAKING else 0.0

    def kill(self, reason: str) -> None:
        """End an engine that is no good; the next `receive` raises EngineDied with this reason."""
        if self._engine is not None and not self._kill_reason:
            self._kill_reason = reason

    def forgive(self, failures: int) -> None:
        """Forget what is known of loads that failed, but for so many of them: another one may begin."""
        self.failures, self.hopeless, self.not_before = failures, None, 0.0

    def end(self) -> None:
        """Let the engine go, with every process it started."""
        if self._engine is not None:
            self._engine.kill()
            self._ending, self._engine = self._engine, None
        self._kill_reason = self._unstarted = None
        self._idle_since, self._dozing = None, ""

    @property
    def ended(self) -> bool:
        """Whether no engine is here, and nothing of the last one holds its GPU any more."""
        if self._ending is not None and self._ending.gone():
            self._ending = None
        return self._engine is None and self._ending is None
