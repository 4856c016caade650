"""Is the work making progress, and is all else in order? Moments and the clock in, one verdict a moment out.

Pure. Progress is any change in what was finished, generated or read (tokens) or made durable, never GPU utilisation: a
GPU in a dead loop reads 100 %. Acts on nothing; the daemon does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from inbox_daemon.config import AlertSettings, EngineSettings
from inbox_daemon.records import AlertName, EngineState
from inbox_daemon.watch.conditions import Condition, Moment, conditions

_DEATHS, _WITHIN = 3, 900.0  # so many deaths of engines within so many seconds are too many
_KILLED_WITHIN = 120.0  # seconds for an autopsy and a kill; an engine still there then is out of our hands


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong, if anything.

    Attributes:
        kill: why the engine must be killed and replaced.
        conditions: what is wrong now, for `alerts`.
        in_order: false where this process no longer does what it should; only systemd can help then.
    """

    kill: str | None = None
    conditions: tuple[Condition, ...] = ()
    in_order: bool = True


@dataclass(slots=True)
class Health:
    """Judges successive moments. Times are monotonic seconds.

    Attributes:
        progress_at: of the last progress of any kind.
    """

    engine: EngineSettings
    alerts: AlertSettings
    progress_at: float
    _last: Moment = field(default=Moment(EngineState.OFF, 0))
    _quiet_since: float = field(init=False)
    _answered: bool = False
    _stalled: str | None = None
    _kill_since: float | None = None
    _able_since: float = field(init=False)  # the last time that an engine was ready, or none was wanted
    _deaths: deque[float] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._quiet_since = self._able_since = self.progress_at

    def judge(self, moment: Moment, now: float) -> Verdict:
        self._watch(moment, now)
        kill = self._kill(moment, now)
        self._stalled = kill or self._stalled
        self._kill_since = None if kill is None else now if self._kill_since is None else self._kill_since
        in_order = self._kill_since is None or now - self._kill_since < _KILLED_WITHIN
        found = (*self._of_the_engine(now), *conditions(moment, self.alerts))
        return Verdict(kill, found, in_order)

    def _watch(self, moment: Moment, now: float) -> None:
        last, self._last = self._last, moment
        if moment.engine is EngineState.READY or not moment.wanted:
            self._able_since = now
        if moment.engine is not EngineState.READY:
            self._answered = False
        grown = moment.engine is last.engine and moment.tokens > last.tokens  # another engine starts to count at 0
        progress = moment.settled > last.settled or moment.durable > last.durable or grown
        if progress:
            self.progress_at = now
            self._answered = moment.engine is EngineState.READY
        if progress or not moment.wanted:
            self._stalled = None
        if progress or moment.engine is not last.engine or not (_works(last) and _works(moment)):
            self._quiet_since = now
        self._deaths.extend([now] * (moment.deaths - last.deaths))
        while self._deaths and now - self._deaths[0] > _WITHIN:
            self._deaths.popleft()

    def _kill(self, moment: Moment, now: float) -> str | None:
        quiet, engine = now - self._quiet_since, self.engine
        if moment.engine is EngineState.LOADING and quiet > engine.load_timeout:
            return f"still loading after {quiet:.0f} s (engine.load_timeout)"
        if moment.engine is EngineState.READY and max(quiet, moment.replica_quiet) > self._patience:
            setting = "stall_after" if self._patience == engine.stall_after else "stall_after_answers"
            whose, seconds = f"{moment.in_flight} requests in flight and no progress", quiet
            if quiet <= self._patience:
                whose, seconds = "a replica that has requests made no progress", moment.replica_quiet
            return f"{whose} for {seconds:.0f} s (engine.{setting})"
        return None

    @property
    def _patience(self) -> float:
        """An engine that has answered has compiled, captured and warmed up what it needs."""
        bounds = [self.engine.stall_after, *([self.engine.stall_after_answers] if self._answered else [])]
        return min(bounds)

    def _of_the_engine(self, now: float) -> Iterator[Condition]:
        if self._stalled:
            yield Condition(AlertName.NO_PROGRESS, self._stalled)  # until there is progress, not until the kill
        elif now - self._able_since > self.engine.load_timeout:
            without = f"there is work, and no engine for {now - self._able_since:.0f} s (engine.load_timeout)"
            yield Condition(AlertName.NO_PROGRESS, without)
        if self._last.wanted and self._last.failures >= _DEATHS:  # however long their loads and the waits between take
            text = f"{self._last.failures} engines in a row died while loading; the journal says why each time"
            yield Condition(AlertName.ENGINE_RESTARTING, text)
        elif len(self._deaths) >= _DEATHS:
            minutes = (now - self._deaths[0]) / 60
            text = f"the engine died {len(self._deaths)} times in {minutes:.0f} min; the journal says why each time"
            yield Condition(AlertName.ENGINE_RESTARTING, text)


def _works(moment: Moment) -> bool:
    return moment.engine is EngineState.LOADING or (moment.engine is EngineState.READY and moment.in_flight > 0)
