"""What fails again and again: the files of a batch, the folders of the spool. Failures and the clock in.

Pure, and tells nobody: `conditions` decides from when on it is an alert. Does not say when something is tried again.
"""

from __future__ import annotations

from dataclasses import dataclass

_FORGIVEN_AFTER = 600.0  # seconds without another failure


@dataclass(frozen=True, slots=True)
class Setback:
    """Something that has failed, so many times, for so many seconds between the first time and the last.

    Attributes:
        what: a folder of the spool, or a batch's name.
        batch: the name, where it is a batch.
        why: the last time.
    """

    what: str
    batch: str | None
    times: int
    lasted: float
    why: str


@dataclass(slots=True)
class _Failing:
    since: float
    at: float
    setback: Setback


class Setbacks:
    """`key` is a batch's id or a folder's name; `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._failing: dict[str, _Failing] = {}

    def failed(self, key: str, why: str, now: float, batch: str | None = None) -> None:
        one = self._failing.get(key)
        since, times = (one.since, one.setback.times) if one and not self._forgiven(one, now) else (now, 0)
        self._failing[key] = _Failing(since, now, Setback(batch or key, batch, times + 1, now - since, why))

    def over(self, key: str) -> None:
        """It works, or it is gone."""
        self._failing.pop(key, None)

    def known(self, now: float) -> tuple[Setback, ...]:
        """Return what failed within the last ten minutes and has not been over since."""
        self._failing = {key: one for key, one in self._failing.items() if not self._forgiven(one, now)}
        return tuple(one.setback for one in self._failing.values())

    @staticmethod
    def _forgiven(one: _Failing, now: float) -> bool:
        return now - one.at > _FORGIVEN_AFTER
