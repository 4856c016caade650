"""Which conditions are alerts: each has to hold for a while, is said once when raised and once when cleared.

Pure: conditions and the clock in, edges out. Tells nobody; `announce` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from inbox_daemon.records import Alert, AlertName, Severity
from inbox_daemon.watch.conditions import Condition


@dataclass(frozen=True, slots=True)
class Rule:
    """Seconds for which a condition must hold before the alert is raised, and be absent before it is cleared."""

    severity: Severity
    hold: float = 0.0
    clear: float = 60.0


_WARNING, _CRITICAL = Severity.WARNING, Severity.CRITICAL

RULES: Mapping[AlertName, Rule] = {
    AlertName.NO_PROGRESS: Rule(_CRITICAL, clear=0),  # it holds once engine.stall_after has passed, until progress
    AlertName.GPU_UTILIZATION_LOW: Rule(_WARNING, hold=300),
    AlertName.HOST_MEMORY_HIGH: Rule(_WARNING, hold=60),
    AlertName.DISK_HIGH: Rule(_WARNING, hold=60),
    AlertName.DISK_WILL_FILL: Rule(_CRITICAL, clear=10),
    AlertName.GPU_MEMORY_HIGH: Rule(_WARNING, hold=60),
    AlertName.ENGINE_RESTARTING: Rule(_CRITICAL),
    AlertName.BATCH_PARKED: Rule(_CRITICAL, clear=0),
    AlertName.BATCH_LATE: Rule(_WARNING, hold=60),
    AlertName.FILES_FAILING: Rule(_CRITICAL, clear=0),  # it holds once they have failed for long enough
    AlertName.UPLOAD_STUCK: Rule(_WARNING, clear=5),  # it holds once inbox.settle has passed 30 times
    AlertName.GPU_XID: Rule(_CRITICAL, clear=0),
    AlertName.GPU_LOST: Rule(_CRITICAL),
    AlertName.GPU_SILENT: Rule(_CRITICAL),
    AlertName.GPU_THROTTLED: Rule(_WARNING, hold=60),
}


_Key = tuple[AlertName, str | None, str]  # what tells one alert from another


@dataclass(frozen=True, slots=True)
class Edge:
    """An alert that was raised, or cleared after so many seconds."""

    alert: Alert
    raised: bool
    lasted: float = 0.0


@dataclass(slots=True)
class _Watched:
    """One condition. Attributes: since, gone: monotonic seconds since when it holds, and is absent."""

    since: float
    gone: float | None = None
    alert: Alert | None = None


class Alerts:
    """Args: holds: rules' hold times that settings decide, in seconds."""

    def __init__(self, holds: Mapping[AlertName, float]) -> None:
        self.holds = holds
        self._watched: dict[_Key, _Watched] = {}

    @property
    def raised(self) -> tuple[Alert, ...]:
        return tuple(watched.alert for watched in self._watched.values() if watched.alert)

    def observe(self, conditions: Sequence[Condition], now: float, wall: float) -> list[Edge]:
        """Return what has been raised and cleared. `now` is monotonic seconds, `wall` Unix seconds."""
        found = {_key(c): c for c in conditions if c.lingers} | {_key(c): c for c in conditions if not c.lingers}
        edges = [edge for condition in found.values() for edge in self._holds(condition, now, wall)]
        for key in [key for key in self._watched if key not in found]:  # in the order in which they came
            edges += self._absent(key, now)
        return edges

    def _holds(self, condition: Condition, now: float, wall: float) -> Iterator[Edge]:
        key, rule = _key(condition), RULES[condition.name]
        watched = self._watched.get(key)
        if condition.lingers and (watched is None or watched.alert is None):
            self._watched.pop(key, None)
            return
        if watched is None:
            watched = self._watched[key] = _Watched(now)
        watched.gone = None
        if watched.alert is not None:
            watched.alert = replace(watched.alert, text=condition.text)
        elif now - watched.since >= self.holds.get(condition.name, rule.hold):
            since = round(wall - (now - watched.since), 1)
            watched.alert = Alert(condition.name, rule.severity, since, condition.text, condition.batch)
            yield Edge(watched.alert, raised=True)

    def _absent(self, key: _Key, now: float) -> Iterator[Edge]:
        watched = self._watched[key]
        if watched.gone is None:
            watched.gone = now
        if watched.alert is None:
            del self._watched[key]
        elif now - watched.gone >= RULES[key[0]].clear:
            del self._watched[key]
            yield Edge(watched.alert, raised=False, lasted=now - watched.since)


def _key(condition: Condition) -> _Key:
    return condition.name, condition.batch, condition.subject
