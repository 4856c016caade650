"""The loop: `step` is the table of contents. Holds the parts together and leaves every decision to them.

Imports neither vllm nor torch, never blocks for a second, and beats only when everything it judges is in order.
"""

from __future__ import annotations

import itertools
import logging
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import fields, replace
from enum import IntEnum
from functools import partial
from operator import attrgetter
from pathlib import Path

from inbox_daemon import journal
from inbox_daemon.batch.ledger import Ledger
from inbox_daemon.batch.life import Life
from inbox_daemon.config import AT_START, RELOADABLE, Config
from inbox_daemon.dispatch.traffic import Traffic
from inbox_daemon.engine import Engine
from inbox_daemon.engine.slot import EngineSlot
from inbox_daemon.errors import ConfigError, SpoolError, told
from inbox_daemon.inbox.arrivals import Intake
from inbox_daemon.inbox.taking import Entrance
from inbox_daemon.journal import Message, of_batch, tell
from inbox_daemon.layout import Spool
from inbox_daemon.machine.notify import Notifier
from inbox_daemon.request.reading import rules_of
from inbox_daemon.setbacks import Setbacks
from inbox_daemon.spool import claim
from inbox_daemon.spool.daemons import Presence
from inbox_daemon.wakeup import Wakeup
from inbox_daemon.watch import view
from inbox_daemon.watch.metrics import Metrics
from inbox_daemon.watch.oversight import Oversight

log = logging.getLogger(__name__)

TICK = 0.5  # seconds at most between two looks at everything
_SLICE = 0.05  # seconds of long steps (reading, merging) in one pass of the loop
_SUSPEND = 10.0  # seconds until a batch whose files failed is tried again
_POLL_ENGINE = 0.005  # seconds between looks at an engine that has no descriptor to wait on
_DRAIN_GIVES_UP = 3  # engines in a row that could not be loaded
_ENGINE_ENDS_WITHIN = 10.0


class Exit(IntEnum):
    OK = 0
    FAILURE = 1
    SOME_ERRORS = 3
    CONFIG = 78


class Daemon:
    """Raises SpoolError where the spool cannot be used."""

    def __init__(
        self, config: Config, make_engine: Callable[[int], Engine], notifier: Notifier, *, drain: bool
    ) -> None:
        self.config = config
        self.spool = Spool(Path(config.spool))
        claim.prepare(self.spool)
        self._notify = notifier
        self._drain = drain
        self._wakeup = Wakeup()
        self._intake = Intake(self.spool.inbox, config.inbox, self._wakeup.wake)
        self._engine = EngineSlot(make_engine, config.engine.idle_unload)
        self._presence = Presence(self.spool)
        self._metrics = Metrics(config.metrics)
        self._lives: dict[int, Life] = {}
        self._traffic = Traffic(self._engine, self._lives, self._safely)
        self._setbacks = Setbacks()
        self._oversight = Oversight(
            config, self.spool, self._engine, self._traffic, self._lives, self._setbacks, self._safely
        )
        self._slots = itertools.count(1)
        self._entrance = Entrance(
            self.spool, lambda: self.config, self._intake, self._lives, self._setbacks, self._begin, self._safely
        )
        self._last = 0  # the slot whose batch had the last step
        self._some_errors = False
        self._busy = False
        self._stop_by: float | None = None

    # -- the loop

    def run(self, reread: Callable[[], Config]) -> Exit:
        """Work until stopped, or until nothing is left where it drains. Raises ConfigError."""
        self._wakeup.catch(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        try:
            self.step(time.monotonic())
            self._notify.ready()
            log.info("ready: drop files into %s", self.spool.inbox)
            while not self._done(time.monotonic()):
                self._wait()
                self._obey(reread)
                self.step(time.monotonic())
        finally:
            self._shut_down()
        if self._drain and (self._lives or self._entrance.waiting or self._entrance.suspended):
            return Exit.FAILURE
        return Exit.SOME_ERRORS if self._drain and self._some_errors else Exit.OK

    def step(self, now: float) -> None:
        """One pass: what has arrived, what is next for each batch, requests out, outcomes in, and is all well?"""
        if not self._stopping:
            self._entrance.look(now)
        self._advance(now)
        self._engine.ensure(self._engine_is_wanted(), now)
        if not self._stopping:
            self._traffic.feed()
        self._busy |= self._traffic.collect(now, self.config.engine.max_deaths)
        self._judge(now)
        self._tell(now)

    def _advance(self, now: float) -> None:
        """Give batches their next steps in turn, for a slice of time together, and each what is due by the clock."""
        deadline = time.monotonic() + _SLICE
        turns = deque(sorted([] if self._stopping else self._lives.values(), key=lambda life: life.slot <= self._last))
        while turns and time.monotonic() < deadline:
            life = turns.popleft()
            self._last = life.slot
            if self._safely(life, life.step):
                turns.append(life)
        for life in list(self._lives.values()):
            self._safely(life, partial(life.ledger.tick, now, len(self._lives)))
            if life.over:
                self._some_errors |= life.had_errors
                self._lives.pop(life.slot, None)
                self._setbacks.over(life.work.id)
                self._entrance.a_slot_is_free(now)
        self._busy = not self._stopping and (bool(turns) or self._entrance.has_more_to_do)

    def _judge(self, now: float) -> None:
        if self._oversight.look(now, self._engine_is_wanted()):
            self._notify.beat(now)

    def _tell(self, now: float) -> None:
        for life in self._lives.values():
            life.ledger.engine = self._oversight.engine
        if self._presence.due(now):
            ours = {"batches": len(self._lives), "log": journal.recent()} | self._entrance.said()
            said = self._oversight.said(now) | ours
            self._presence.say(now, said)
            self._metrics.say(now, said, [life.ledger.told for life in self._lives.values() if life.ledger.told])
        queues = [life.queue for life in self._lives.values()]
        requests = (sum(queue.done for queue in queues), sum(map(len, queues)))
        alerts = [alert.name for alert in self._oversight.raised]
        self._notify.status(
            view.summary(len(queues), requests, len(self._entrance.suspended), self._oversight.engine, alerts), now
        )

    # -- batches

    def _begin(self, held: claim.Held) -> None:
        slot = next(self._slots)
        results, log_every = self.config.results, self.config.daemon.log_every
        try:
            ledger = Ledger(self.spool, held.work, results, log_every, self._oversight.totals)
        except Exception as error:
            self._suspend(held.work.id, held.work.id, error)
            held.release()
            return
        self._lives[slot] = Life(held, slot, ledger, lambda: rules_of(self.config), self._entrance.obey_what_waits_for)
        self._busy = True

    def _safely(self, life: Life, action: Callable[[], object]) -> bool:
        """Do something for one batch. What fails costs that batch a pause, and nobody else anything."""
        if life.slot not in self._lives:
            return False
        try:
            return bool(action())
        except Exception as error:
            self._suspend(life.work.id, life.name, error)
        del self._lives[life.slot]
        life.let_go()
        return False

    def _suspend(self, id: str, name: str, error: Exception) -> None:
        """Have a batch adopted again, from its files, some seconds later."""
        now = time.monotonic()
        self._entrance.suspended[id] = now + _SUSPEND
        adapter, fields = of_batch(log, name), tell(Message.BATCH_SUSPENDED)
        if isinstance(error, OSError | SpoolError):
            why = told(error)
            adapter.error("%s: suspended for %.0f s: %s", name, _SUSPEND, why, extra=fields)
        else:
            why = f"a fault of ours, {type(error).__name__}; the journal has the rest"
            adapter.error("%s: suspended for %.0f s by a fault of ours", name, _SUSPEND, exc_info=error, extra=fields)
        self._setbacks.failed(id, why, now, batch=name)

    def _engine_is_wanted(self) -> bool:
        if self._stopping:
            return self._traffic.in_flight > 0
        return self.config.engine.preload or any(life.wants_engine for life in self._lives.values())

    # -- signals, waiting, the end

    def _wait(self) -> None:
        """Sleep until there is something to do, at most a tick."""
        seconds = 0.0 if self._busy else TICK
        if not self._stopping:
            seconds = min(seconds, self._intake.due_in(time.monotonic()))
        engine = self._engine.fileno()
        if engine is None and self._traffic.in_flight:
            seconds = min(seconds, _POLL_ENGINE)
        self._wakeup.sleep(seconds, engine)

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
            self._stop_by = now if self._stopping else now + self.config.daemon.stop_grace
            self._notify.stopping(self._stop_by - now + 2 * _ENGINE_ENDS_WITHIN)
            log.info("stopping: %d requests in flight get %.0f s", self._traffic.in_flight, self._stop_by - now)

    def _reload(self, reread: Callable[[], Config]) -> None:
        try:
            fresh = reread()
        except ConfigError as error:
            log.error("configuration not reloaded, the old one stays: %s", error)
            return
        changed = {f.name for f in fields(Config) if getattr(fresh, f.name) != getattr(self.config, f.name)}
        waits = {name for name in AT_START if attrgetter(name)(fresh) != attrgetter(name)(self.config)}
        self.config = replace(self.config, **{name: getattr(fresh, name) for name in changed & set(RELOADABLE)})
        self._intake.settings = self.config.inbox
        self._oversight.configure(self.config)
        for life in list(self._lives.values()):
            life.ledger.results = self.config.results
            life.ledger.log_every = self.config.daemon.log_every
            self._safely(life, life.read_control)  # for its priority
        logging.getLogger("inbox_daemon").setLevel(self.config.daemon.log_level.upper())
        for name in sorted((changed - set(RELOADABLE)) | waits):
            log.warning("configuration: a change of %s takes effect at the next start", name)
        log.info("configuration reloaded: %s", ", ".join(sorted(changed & set(RELOADABLE))) or "nothing changed")

    @property
    def _stopping(self) -> bool:
        return self._stop_by is not None

    def _done(self, now: float) -> bool:
        if self._stop_by is not None:
            return self._traffic.in_flight == 0 or now >= self._stop_by
        if not self._drain or not self._entrance.is_done:
            return False
        hopeless = self._engine.failures >= _DRAIN_GIVES_UP
        return hopeless or all(life.ledger.parked for life in self._lives.values())

    def _shut_down(self) -> None:
        self._intake.stop()
        self._oversight.stop()
        self._engine.end()
        for life in list(self._lives.values()):
            self._safely(life, partial(life.rest, time.monotonic()))
            life.let_go()
        deadline = time.monotonic() + _ENGINE_ENDS_WITHIN
        while not self._engine.ended and time.monotonic() < deadline:
            time.sleep(0.05)
        self._presence.leave()
        left = len(self._lives)
        log.info("stopped%s", f": {left} batches go on at the next start" if left else "")
