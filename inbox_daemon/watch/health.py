"""Is the work making progress, and is all else in order? Moments and the clock in, one verdict a moment out.

Pure. An engine's progress is any change in what it has finished, generated or read (tokens), never GPU utilisation: a
GPU in a dead loop reads 100 %. Acts on nothing; the daemon does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from inbox_daemon.config import EngineSettings
from inbox_daemon.records import AlertName, EngineState
from inbox_daemon.settings import Settings
from inbox_daemon.watch.conditions import Condition, EngineMoment, Moment, conditions

_DEATHS, _WITHIN = 3, 900.0  # so many deaths of engines within so many seconds are too many
_KILLED_WITHIN = 120.0  # seconds for an autopsy and a kill; an engine still there then is out of our hands


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong, if anything.

    Attributes:
        kill: why an engine must be killed and replaced, by its number.
        conditions: what is wrong now, for `alerts`.
        in_order: false where this process no longer does what it should; only systemd can help then.
    """

    kill: Mapping[int, str] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()
    in_order: bool = True


@dataclass(slots=True)
class Pulse:
    """Whether one engine makes progress, from successive moments of it. Times are monotonic seconds.

    Attributes:
        progressed: whether it has made progress since the last moment.
    """

    settings: EngineSettings
    quiet_since: float
    progressed: bool = False
    _last: EngineMoment = field(default=EngineMoment(0, EngineState.OFF))
    _answered: bool = False

    def feel(self, moment: EngineMoment, now: float) -> None:
        last, self._last = self._last, moment
        if moment.state is not EngineState.READY:
            self._answered = False
        grown = moment.state is last.state and moment.tokens > last.tokens  # another engine starts to count at 0
        self.progressed = moment.settled > last.settled or grown
        if self.progressed:
            self._answered = moment.state is EngineState.READY
        if self.progressed or moment.state is not last.state or not (_works(last) and _works(moment)):
            self.quiet_since = now

    def kill(self, now: float) -> str | None:
        """Return why the engine must be killed, if it must."""
        moment, quiet, settings = self._last, now - self.quiet_since, self.settings
        if moment.state is EngineState.LOADING and quiet > settings.load_timeout:
            return f"still loading after {quiet:.0f} s (engine.load_timeout)"
        if moment.state is EngineState.READY and quiet > self._patience:
            setting = "stall_after" if self._patience == settings.stall_after else "stall_after_answers"
            return f"{moment.in_flight} requests in flight and no progress for {quiet:.0f} s (engine.{setting})"
        return None

    @property
    def _patience(self) -> float:
        """An engine that has answered has compiled, captured and warmed up what it needs."""
        bounds = [self.settings.stall_after, *([self.settings.stall_after_answers] if self._answered else [])]
        return min(bounds)


@dataclass(slots=True)
class Health:
    """The judge of successive moments. Times are monotonic seconds.

    Attributes:
        progress_at: of the last progress of any kind.
    """

    settings: Settings
    progress_at: float
    _pulses: dict[int, Pulse] = field(default_factory=dict)
    _last: Moment = field(default=Moment())
    _stalled: dict[int, str] = field(default_factory=dict)
    _kill_since: dict[int, float] = field(default_factory=dict)
    _able_since: float = field(init=False)  # the last time that an engine was ready, or none was wanted
    _deaths: deque[float] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._able_since = self.progress_at

    def judge(self, moment: Moment, now: float) -> Verdict:
        self._watch(moment, now)
        kill = {number: why for number, pulse in self._pulses.items() if (why := pulse.kill(now))}
        self._stalled |= kill
        self._kill_since = {number: self._kill_since.get(number, now) for number in kill}
        in_order = all(now - since < _KILLED_WITHIN for since in self._kill_since.values())
        found = (*self._of_the_engines(now), *conditions(moment, self.settings.now.alerts))
        return Verdict(kill, found, in_order)

    def _watch(self, moment: Moment, now: float) -> None:
        last, self._last = self._last, moment
        if not moment.wanted or any(engine.state is EngineState.READY for engine in moment.engines):
            self._able_since = now
        here = {engine.number for engine in moment.engines}  # the settings may have had more
        self._pulses = {number: pulse for number, pulse in self._pulses.items() if number in here}
        self._stalled = {number: why for number, why in self._stalled.items() if number in here}
        for engine in moment.engines:
            pulse = self._pulses.setdefault(engine.number, Pulse(self.settings.now.engine, now))
            pulse.feel(engine, now)
            if pulse.progressed or not moment.wanted:
                self._stalled.pop(engine.number, None)
        if moment.durable > last.durable or any(pulse.progressed for pulse in self._pulses.values()):
            self.progress_at = now
        before = {engine.number: engine.deaths for engine in last.engines}
        died = sum(engine.deaths - before.get(engine.number, 0) for engine in moment.engines)
        self._deaths.extend([now] * died)
        while self._deaths and now - self._deaths[0] > _WITHIN:
            self._deaths.popleft()

    def _of_the_engines(self, now: float) -> Iterator[Condition]:
        load_timeout = self.settings.now.engine.load_timeout
        names = {engine.number: engine.name for engine in self._last.engines}
        for number, why in self._stalled.items():  # until there is progress, not until the kill
            several = f"{names[number]}: " if len(names) > 1 else ""
            yield Condition(AlertName.NO_PROGRESS, several + why, subject=str(number))
        if not self._stalled and now - self._able_since > load_timeout:
            without = f"there is work, and no engine for {now - self._able_since:.0f} s (engine.load_timeout)"
            yield Condition(AlertName.NO_PROGRESS, without)
        failing = max(self._last.engines, key=lambda engine: engine.failures, default=None)
        if self._last.wanted and failing and failing.failures >= _DEATHS:  # however long loads and waits take
            text = f"{failing.failures} engines in a row died while loading; the journal says why each time"
            yield Condition(AlertName.ENGINE_RESTARTING, text)
        elif len(self._deaths) >= _DEATHS:
            minutes = (now - self._deaths[0]) / 60
            text = f"the engine died {len(self._deaths)} times in {minutes:.0f} min; the journal says why each time"
            yield Condition(AlertName.ENGINE_RESTARTING, text)


def _works(moment: EngineMoment) -> bool:
    return moment.state is EngineState.LOADING or (moment.state is EngineState.READY and moment.in_flight > 0)
