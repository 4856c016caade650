"""Is all well? Puts together what is known, has it judged, tells of alerts, and carries the verdict out.

Owns GPU sampling, alerts and autopsies. An engine that hangs is looked at first and killed then; none of it makes the
loop wait. Knows batches only as facts and as folders that an autopsy goes into.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from inbox_daemon.batch import status
from inbox_daemon.batch.life import Life
from inbox_daemon.config import Config
from inbox_daemon.dispatch.traffic import Traffic
from inbox_daemon.engine.slot import EngineSlot
from inbox_daemon.journal import Message, tell
from inbox_daemon.layout import Spool
from inbox_daemon.machine import host, nvml
from inbox_daemon.machine.gpu import Sampler
from inbox_daemon.records import Alert, AlertName, Gpus, Host
from inbox_daemon.setbacks import Setbacks
from inbox_daemon.spool import outbox
from inbox_daemon.watch import view
from inbox_daemon.watch.alerts import Alerts
from inbox_daemon.watch.announce import Announcer
from inbox_daemon.watch.autopsy import Autopsy, Scene, report
from inbox_daemon.watch.conditions import BatchFacts, Moment
from inbox_daemon.watch.health import Health, Verdict

_HOST_EVERY = 5.0  # seconds
_NAMED = 100  # requests in flight that an autopsy names
_TELLS_WITHIN = 2.0  # seconds for alert commands at the end


class Oversight:
    """`now` is monotonic seconds throughout.

    Args:
        safely: does something for one batch; what fails costs that batch a pause.

    Attributes:
        engine: what the engine is doing now, for every status.
        totals: what all batches have made durable in the life of this daemon.
    """

    def __init__(
        self,
        config: Config,
        spool: Spool,
        engine: EngineSlot,
        traffic: Traffic,
        lives: Mapping[int, Life],
        setbacks: Setbacks,
        safely: Callable[[Life, Callable[[], object]], bool],
    ) -> None:
        self.engine: dict[str, Any] = {}
        self.totals = status.Tally()
        self._spool, self._slot, self._traffic, self._lives, self._safely = spool, engine, traffic, lives, safely
        self._setbacks = setbacks
        self._gpus, self._host = Gpus(), Host()
        self._state, self._since = engine.state, time.time()
        self._sampler = Sampler(config.daemon.gpu_every, nvml.present)
        self._health = Health(config.engine, config.alerts, time.monotonic())
        self._alerts = Alerts(_holds(config))
        self._announcer = Announcer(spool, config.alerts.command)
        self._autopsy: Autopsy | None = None
        self._examined = 0  # the number of the engine that the last autopsy was of
        self._host_at = float("-inf")

    @property
    def raised(self) -> tuple[Alert, ...]:
        return self._alerts.raised

    def said(self, now: float) -> dict[str, Any]:
        """Return what this daemon says of itself."""
        progress_at = time.time() - (now - self._health.progress_at)
        requests = view.requests_view(self.totals, progress_at)
        return view.daemon_view(self.engine, requests, self._gpus, self._host, self.raised)

    def configure(self, config: Config) -> None:
        """Take what SIGHUP may change."""
        self._health.alerts = config.alerts
        self._alerts.holds = _holds(config)
        self._announcer.use(config.alerts.command)

    def look(self, now: float, wanted: bool) -> bool:
        """Judge this moment and act on it; say whether the watchdog may be fed.

        Args:
            wanted: whether there is work for an engine.
        """
        wall = time.time()
        self.engine = self._engine_now(wall)
        self._gpus = self._sampler.look(now, wall)
        if now - self._host_at >= _HOST_EVERY:
            self._host_at = now
            with suppress(OSError):  # a disk that does not answer stops the batches, and they say so
                self._host = host.look(self._spool.root)
        verdict = self._health.judge(self._moment(wanted, now, wall), now)
        for edge in self._alerts.observe(verdict.conditions, now, wall):
            self._announcer.say(edge, wall)
        self._announcer.look(now)
        self._treat(verdict, now)
        return verdict.in_order

    def stop(self) -> None:
        self._sampler.stop()
        if self._autopsy is not None:
            self._autopsy.end()
        self._announcer.finish(_TELLS_WITHIN)

    def _engine_now(self, wall: float) -> dict[str, Any]:
        slot = self._slot
        if slot.state is not self._state:
            self._state, self._since = slot.state, wall
        death = slot.last_death.reason if slot.last_death else None
        counts = (slot.starts, slot.deaths, self._traffic.in_flight)
        facts = (slot.state, slot.phase, slot.last_info, slot.stats, death, self._since)
        return view.engine_view(view.EngineFacts(*facts, *counts))

    def _moment(self, wanted: bool, now: float, wall: float) -> Moment:
        engine, info = self._slot, self._slot.info
        stats = engine.stats
        return Moment(
            engine=engine.state,
            in_flight=self._traffic.in_flight,
            wanted=wanted,
            settled=self._traffic.settled,
            durable=self.totals.done,
            tokens=stats.input_tokens + stats.output_tokens if info else 0,
            replica_quiet=engine.quiet_for(),
            deaths=engine.deaths,
            failures=engine.failures,
            reserved=info.settings.get("gpu_memory_utilization") if info and info.gpus else None,
            gpus=self._gpus,
            host=self._host,
            batches=tuple(_facts(life, wall) for life in self._lives.values()),
            setbacks=self._setbacks.known(now),
            wall=wall,
        )

    def _treat(self, verdict: Verdict, now: float) -> None:
        """Have an engine that hangs examined, then killed; leave one alone that has gone on meanwhile."""
        number = self._slot.starts
        if verdict.kill and self._autopsy is None and self._examined != number:
            self._examined = number
            self._autopsy = Autopsy(Scene(verdict.kill, self.engine, self._gpus, self._slot.evidence()), now)
        if self._autopsy is not None:
            processes = self._autopsy.look(now)
            if processes is None:
                return
            self._write(self._autopsy.scene, processes)
            self._autopsy = None
        if verdict.kill:
            self._slot.kill(verdict.kill)
        else:
            self._examined = 0

    def _write(self, scene: Scene, processes: str) -> None:
        """Put the autopsy next to the status of each batch that the engine had requests of, or that waits for it."""
        for life in list(self._lives.values()):
            if life.queue.in_flight or life.queue.takeable:
                self._safely(life, partial(_write_for, life, scene, processes))


def _write_for(life: Life, scene: Scene, processes: str) -> None:
    text = report(scene, processes, life.queue.in_flight, life.in_flight(_NAMED), time.time())
    name = outbox.write_autopsy(life.ledger.published, text)
    life.ledger.log.info("%s: autopsy of the engine: %s", life.name, name, extra=tell(Message.AUTOPSY))


def _facts(life: Life, wall: float) -> BatchFacts:
    ledger = life.ledger
    return BatchFacts(ledger.name, wall - ledger.created, ledger.eta(), ledger.parked, ledger.lacking)


def _holds(config: Config) -> dict[AlertName, float]:
    return {AlertName.GPU_UTILIZATION_LOW: config.alerts.gpu_utilization_for}
