"""The loop: `step` is the table of contents. Holds the parts together and leaves every decision to them.

Imports neither vllm nor torch, never blocks for a second, and beats only when everything it judges is in order.
"""

from __future__ import annotations

import logging
import signal
import time
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from functools import partial
from pathlib import Path

from inbox_daemon import journal
from inbox_daemon.batches import Batches
from inbox_daemon.config import Config
from inbox_daemon.dispatch.dispatcher import Dispatcher
from inbox_daemon.dispatch.rotations import Rotations
from inbox_daemon.ended.clearing import Clearing
from inbox_daemon.ended.deleting import Deleting
from inbox_daemon.ended.leaving import Leaving
from inbox_daemon.engine.fleet import Fleet
from inbox_daemon.engine.replicas import Make
from inbox_daemon.errors import ConfigError
from inbox_daemon.inbox.arrivals import Arriving
from inbox_daemon.inbox.taking import Taking
from inbox_daemon.layout import Spool
from inbox_daemon.machine.notify import Notifier
from inbox_daemon.setbacks import Setbacks
from inbox_daemon.settings import Settings
from inbox_daemon.spool import claim
from inbox_daemon.spool.daemons import Presence
from inbox_daemon.wakeup import Wakeup
from inbox_daemon.watch import view
from inbox_daemon.watch.metrics import Metrics
from inbox_daemon.watch.oversight import Oversight

log = logging.getLogger(__name__)

TICK = 0.5  # seconds at most between two looks at everything
_SLICE = 0.05  # seconds of long steps (reading, merging) in one pass of the loop
_POLL_ENGINE = 0.005  # seconds between looks at an engine that has no descriptor to wait on
_WHILE_CHANGING = 0.05  # seconds between looks at a model that gives way
_DRAIN_GIVES_UP = 3  # engines in a row that could not be loaded
_RECALLED_WITHIN = 1.0  # seconds for engines to give back what they have, at the end
_ENGINE_ENDS_WITHIN = 10.0


class Exit(IntEnum):
    OK = 0
    FAILURE = 1
    SOME_ERRORS = 3
    CONFIG = 78


class Daemon:
    """The daemon of one spool.

    Args:
        make_engine: starts an engine; see `Fleet`.
        drain: end when nothing is left to do.

    Raises:
        SpoolError: the spool cannot be used.
    """

    def __init__(self, config: Config, make_engine: Make, notifier: Notifier, *, drain: bool) -> None:
        self.settings = Settings(config)
        self.spool = Spool(Path(config.spool))
        claim.prepare(self.spool)
        self._notify, self._drain = notifier, drain
        self._wakeup, self._setbacks = Wakeup(), Setbacks()
        self._batches = Batches(self.spool, self.settings, self._setbacks)
        self._leaving = Leaving(self.spool, self.settings)
        self._clearing = Clearing(self.spool, self.settings, self._batches)
        self._deleting = Deleting(self.spool, self.settings)
        self._arriving = Arriving(self.spool.inbox, self.settings, self._wakeup.wake)
        self._taking = Taking(self.spool, self.settings, self._arriving, self._batches, self._setbacks)
        self._fleet = Fleet(make_engine, self.settings)
        self._dispatcher = Dispatcher(self._fleet, self._batches)
        self._rotations = Rotations(self._fleet, self._dispatcher, self._batches, self.settings)
        self._oversight = Oversight(
            self.spool, self.settings, self._dispatcher, self._rotations, self._batches, self._setbacks
        )
        self._presence, self._metrics = Presence(self.spool), Metrics(config.metrics, self._setbacks)
        self._last = 0  # the number of the batch that had the last step
        self._kept = 0  # of the one that was given last what is due by the clock
        self._busy = False
        self._stop_by: float | None = None

    # -- the loop

    def run(self, reread: Callable[[], Config]) -> Exit:
        """Work until stopped, or until nothing is left where it drains.

        Raises:
            ConfigError: no engine can be loaded, now or later; each batch's status says so.
        """
        self._wakeup.catch(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        try:
            self.step(time.monotonic())
            self._notify.ready()
            log.info("ready: drop files into %s", self.spool.inbox)
            while not self._done(time.monotonic()):
                self._wait()
                self._obey(reread)
                self.step(time.monotonic())
        except ConfigError as wrong:
            for life in self._batches:
                life.state.hopeless = str(wrong)
            raise
        finally:
            self._shut_down()
        if self._drain and (len(self._batches) or self._taking.waiting or self._batches.suspended):
            return Exit.FAILURE
        return Exit.SOME_ERRORS if self._drain and self._batches.some_errors else Exit.OK

    def step(self, now: float) -> None:
        """One pass: what arrived, batches, whose turn, requests out, outcomes in, what has ended, is all well?"""
        if not self._stopping:
            self._taking.look(now)
        self._advance(now)
        self._rotations.turn(now, self._engine_is_wanted, self._stopping)
        if not self._stopping:
            self._dispatcher.feed()
        self._busy |= self._dispatcher.collect(now)
        if self._deleting.look(now, self._taking.deletes):
            self._leaving.over()
        self._leaving.look(now)
        self._clearing.look(now, self._taking.needed)
        self._busy |= self._leaving.removing or self._clearing.busy or self._deleting.busy
        if self._oversight.look(now, self._engine_is_wanted, self._taking.stuck):
            self._notify.beat(now)
        self._tell(now)

    def _advance(self, now: float) -> None:
        """Give batches their next steps in turn, for a slice of time together, and then what is due by the clock."""
        deadline = time.monotonic() + _SLICE
        turns = deque(sorted([] if self._stopping else self._batches, key=lambda life: life.number <= self._last))
        while turns:
            life = turns.popleft()
            self._last = life.number
            if self._batches.safely(life, life.step):
                turns.append(life)
            if time.monotonic() >= deadline:
                break
        for life in self._batches:
            if life.over:
                self._batches.over(life)
                self._leaving.over()
                self._clearing.over(life.name)
                self._taking.a_seat_is_free(now)
        more_is_due = self._keep(now)
        self._busy = more_is_due or (not self._stopping and (bool(turns) or self._taking.has_more_to_do))

    def _keep(self, now: float) -> bool:
        """Give batches what is due by the clock, in turn, for a slice of time: each syncs. Say whether more is due."""
        deadline = time.monotonic() + _SLICE
        for life in sorted(self._batches, key=lambda life: life.number <= self._kept):
            self._kept = life.number
            self._batches.safely(life, partial(life.tick, now, len(self._batches), self._oversight.present))
            if time.monotonic() >= deadline:
                return True
        return False

    def _tell(self, now: float) -> None:
        lives = list(self._batches)
        if self._presence.due(now):
            ours = {"batches": len(lives), "stopping": self._stopping, "log": journal.recent()} | self._taking.said()
            said = self._oversight.said(now) | ours
            self._presence.say(now, said)
            self._metrics.say(now, said, [life.face.told for life in lives if life.face.told])
        requests = (sum(life.queue.done for life in lives), sum(len(life.queue) for life in lives))
        alerts = [alert.name for alert in self._oversight.raised]
        suspended, engines = len(self._batches.suspended), self._oversight.engines
        said_short = view.summary(len(lives), requests, suspended, engines, alerts)
        self._notify.status(f"stopping; {said_short}" if self._stopping else said_short, now)

    @property
    def _engine_is_wanted(self) -> bool:
        if self._stopping:
            return self._dispatcher.in_flight > 0
        return self.settings.now.engine.preload or any(life.wants_engine for life in self._batches)

    # -- signals, waiting, the end

    def _wait(self) -> None:
        """Sleep until there is something to do, at most a tick."""
        seconds = 0.0 if self._busy else TICK
        if not self._stopping:
            seconds = min(seconds, self._arriving.due_in(time.monotonic()))
        if self._rotations.changing:
            seconds = min(seconds, _WHILE_CHANGING)
        engines = self._fleet.fileno()
        if engines is None and self._dispatcher.in_flight:
            seconds = min(seconds, _POLL_ENGINE)
        self._wakeup.sleep(seconds, engines)

    def _obey(self, reread: Callable[[], Config]) -> None:
        """Do what signals have asked for; their handlers only took note."""
        while self._wakeup.signals:
            number = self._wakeup.signals.pop(0)
            if number == signal.SIGHUP:
                self._notify.reloading()
                self._reload(reread)
                self._notify.ready()
                continue
            now = time.monotonic()
            self._stop_by = now if self._stopping else now + self.settings.now.daemon.stop_grace
            self._notify.stopping(self._stop_by - now + 2 * _ENGINE_ENDS_WITHIN)
            log.info("stopping: %d requests in flight get %.0f s", self._dispatcher.in_flight, self._stop_by - now)

    def _reload(self, reread: Callable[[], Config]) -> None:
        try:
            taken, wait = self.settings.take(reread())
        except ConfigError as error:
            log.error("configuration not reloaded, the old one stays: %s", error)
            return
        for life in self._batches:
            self._batches.safely(life, life.read_control)  # for its priority
        self._oversight.reloaded()
        self._leaving.reloaded()
        logging.getLogger("inbox_daemon").setLevel(self.settings.now.daemon.log_level.upper())
        for name in wait:
            log.warning("configuration: a change of %s takes effect at the next start", name)
        log.info("configuration reloaded: %s", ", ".join(taken) or "nothing changed")

    @property
    def _stopping(self) -> bool:
        return self._stop_by is not None

    def _done(self, now: float) -> bool:
        if self._stop_by is not None:
            if now >= self._stop_by:
                self._dispatcher.recall_all()
            return self._dispatcher.in_flight == 0 or now >= self._stop_by + _RECALLED_WITHIN
        if not self._drain or not self._taking.is_done:
            return False
        if self._deleting.waits or self._leaving.busy or self._clearing.busy:
            return False
        hopeless = self._fleet.failures >= _DRAIN_GIVES_UP
        return hopeless or all(life.state.parked or life.state.waits_for for life in self._batches)

    def _shut_down(self) -> None:
        self._arriving.stop()
        self._oversight.stop()
        self._leaving.stop()
        self._fleet.end()
        self._batches.rest(time.monotonic())
        deadline = time.monotonic() + _ENGINE_ENDS_WITHIN
        while not self._fleet.ended and time.monotonic() < deadline:
            time.sleep(0.05)
        self._fleet.close()
        self._presence.leave()
        left = len(self._batches)
        log.info("stopped%s", f": {left} batches go on at the next start" if left else "")
