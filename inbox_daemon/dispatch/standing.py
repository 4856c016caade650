"""How one model stands: loaded or not, since when, what there is to do for it, and what was learnt of it.

Kept by `rotation`, which alone changes it. Knows its engines and its need, and no other model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from inbox_daemon.dispatch.demand import Need, Speed
from inbox_daemon.engine.replicas import Replicas


@dataclass(slots=True)
class Standing:
    """How one model stands. Times are monotonic seconds.

    Attributes:
        on: it has engines, or is to have them.
        ready_at: since when it answers; None: it does not.
        leaving_since: it gives way, and what it has begun may end.
        ending: its engines have been let go, and are not gone or asleep yet.
        slept_at: since when it has been asleep.
        let_go_at: when it gave way last.
        swap: seconds from the decision to its first engine, as measured last.
        failed: why it is not loaded any more; `knew` has the batches that it was known to by then, and how often each
            had been resumed.
        interrupted: requests that it was interrupted in when it gave way last.
        need: what there is to do for it.
    """

    replicas: Replicas
    on: bool = False
    ready_at: float | None = None
    idle_since: float | None = None
    leaving_since: float | None = None
    recalled: bool = False
    ending: bool = False
    let_go_at: float = float("-inf")
    slept_at: float = float("-inf")
    swap: float | None = None
    failed: str | None = None
    knew: dict[int, int] = field(default_factory=dict)
    interrupted: set[int] = field(default_factory=set)
    need: Need | None = None
    speed: Speed = field(default_factory=Speed)

    @property
    def name(self) -> str:
        return self.replicas.model.name

    @property
    def changing(self) -> bool:
        return self.leaving_since is not None or self.ending or self.replicas.loading or self.replicas.ending

    @property
    def since(self) -> float:
        """From when on what there is to do for it has waited."""
        return max(self.need.since, self.let_go_at) if self.need else self.let_go_at

    def seconds_for(self, requests: int, otherwise: float | None) -> float | None:
        """Return how long so many requests take, by its own speed or, where it has none yet, by another one."""
        speed = self.speed.requests or otherwise
        return requests / speed if speed else None

    @property
    def state(self) -> str:
        """For people: off, asleep, waiting, backing_off, loading, ready, leaving or failed."""
        if self.failed:
            return "failed"
        if self.leaving_since is not None or self.ending:
            return "leaving"
        if self.on:
            return "ready" if self.replicas.ready else "loading"
        if self.need is None:
            return "asleep" if self.replicas.asleep else "off"
        return "backing_off" if self.replicas.failures else "waiting"

    def waits(self, now: float) -> bool:
        """Whether it may be loaded, and there is something to do for it."""
        may = not self.on and not self.failed and not self.replicas.retired
        return self.need is not None and may and now >= self.replicas.not_before

    def is_off(self) -> None:
        """Its engines are gone, or have died and do not start at once."""
        self.on, self.ready_at, self.leaving_since, self.ending, self.recalled = False, None, None, False, False
        self.replicas.leaving = False
