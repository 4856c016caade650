"""Carries out whose turn it is: has a model's engines let go, and then another one's started. One change at a time.

A model that gives way gets nothing more; what it has begun may end for `models.swap_grace`, and the rest comes back and
runs at its next turn. Then it is put to sleep, where it can (`sleepers`), or ended. While one is leaving, ending or
loading, nothing else changes on its GPUs: vLLM measures the free memory while it loads. Owns how a model stands and
when it is given up. Who is next, `turns` says; engines are the fleet's.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any

from inbox_daemon.batch.life import Life
from inbox_daemon.batches import Batches
from inbox_daemon.dispatch.demand import Demand
from inbox_daemon.dispatch.dispatcher import Dispatcher
from inbox_daemon.dispatch.sleepers import Sleepers
from inbox_daemon.dispatch.standing import Standing
from inbox_daemon.dispatch.traffic import Traffic
from inbox_daemon.dispatch.turns import Change, Hot, Turns, Waiting
from inbox_daemon.engine.placement import fit
from inbox_daemon.settings import Settings
from inbox_daemon.text import span

log = logging.getLogger(__name__)

_RECALLED_WITHIN = 10.0  # seconds in which an engine gives back what it has; one that does not, hangs
_A_SWAP = 60.0  # seconds, before any has been measured


class Rotation:
    """The models that share one set of GPUs. `now` is monotonic seconds.

    Args:
        standings: of these models; `everyone` has those on other GPUs, too.
    """

    def __init__(
        self,
        standings: Sequence[Standing],
        everyone: Sequence[Standing],
        dispatcher: Dispatcher,
        batches: Batches,
        settings: Settings,
    ) -> None:
        self.standings, self._all = standings, everyone
        self._by_name = {one.name: one for one in standings}
        self._dispatcher, self._batches, self._settings = dispatcher, batches, settings
        self.sleepers = Sleepers(settings)
        self._change: tuple[Change, float] | None = None  # what is being carried out, and since when

    def look(self, demand: Demand, now: float, stopping: bool) -> None:
        """Take note of what has become of each model; carry out what has begun; begin what is due."""
        for one in self.standings:
            one.need = demand.of(one.replicas.model.lanes)
            self._note(one, now)
            demand.say_who_waits(one.replicas.model.lanes, not one.replicas.ready)
        for one in self.standings:
            self._let_go(one, now)
            self.sleepers.watch(one, now)
        self.sleepers.spare_the_host(self.standings, now)
        if self._change and not stopping:
            self._load(*self._change)
        elif not stopping and not any(one.changing for one in self.standings):
            self._decide(now)

    @property
    def at_rest(self) -> bool:
        """Whether nothing is being changed, so that models may come and go."""
        return self._change is None and not any(one.changing for one in self.standings)

    # -- what has become of it

    def _note(self, one: Standing, now: float) -> None:
        traffics = self._of(one)
        one.speed.mark(now, sum(t.settled for t in traffics), any(t.in_flight for t in traffics))
        one.interrupted = {ticket for ticket in one.interrupted if self._dispatcher.is_to_be_done(ticket)}
        one.idle_since = None if one.need else one.idle_since or now
        if one.failed:
            self._try_again_if_asked(one)
        if not one.on or one.leaving_since is not None or one.ending:
            return
        if one.replicas.ready:
            if one.ready_at is None:
                one.ready_at = now
            if self._change and self._change[0].load == one.name:
                one.swap, self._change = now - self._change[1], None
        elif not one.replicas.occupied and one.replicas.failures:
            one.is_off()  # its back-off, or its end, holds up nobody
            if self.sleepers.end_all(self.standings, f"{one.name} could not be loaded beside it"):
                one.replicas.try_again()
            if self._change and self._change[0].load == one.name:
                self._change = None
            if why := one.replicas.given_up:
                self._give_up(one, why)
        elif not one.replicas.occupied and one.ready_at is not None and not one.need:
            one.is_off()  # idle_unload

    # -- making room, and loading

    def _let_go(self, one: Standing, now: float) -> None:
        """Carry on with a model that gives way."""
        if one.leaving_since is not None:
            traffics = [traffic for traffic in self._of(one) if traffic.in_flight]
            waited, grace = now - one.leaving_since, self._settings.now.models.swap_grace
            if traffics and waited >= grace and not one.recalled:
                one.recalled = True
                one.interrupted = {ticket for traffic in traffics for ticket in traffic.recall_all()}
                told = (one.name, len(one.interrupted), grace)
                log.info("%s: %d requests have not ended within %.0f s (models.swap_grace) and run again later", *told)
            if traffics and waited >= grace + _RECALLED_WITHIN:
                for traffic in traffics:  # what it has runs again, as after any death
                    traffic.slot.kill(f"it gave no request back within {_RECALLED_WITHIN:.0f} s")
            if not traffics:
                if self.sleepers.may(one):
                    one.replicas.sleep()
                else:
                    one.replicas.end()
                one.let_go_at, one.leaving_since, one.ending, one.slept_at = one.leaving_since, None, True, now
        if one.ending and (one.replicas.ended or one.replicas.asleep):
            one.is_off()

    def _load(self, change: Change, begun: float) -> None:
        """Have the model of a change loaded, once there is room."""
        target = self._by_name[change.load]
        if any(self._by_name[name].on for name in change.let_go):
            return
        if target.need is None and not self._is_preloaded(target) and not target.replicas.occupied:
            target.is_off()
            self._change = None  # it was cancelled meanwhile
        elif not target.on:
            target.on, target.ready_at = True, None

    def _decide(self, now: float) -> None:
        hot = [self._hot(one, now) for one in self.standings if one.on]
        waiting = [self._waiting(one) for one in self.standings if one.waits(now)]
        change = self._turns.next(now, hot, waiting, self._fit)
        if change is None and not hot and not waiting:
            change = next((Change(one.name) for one in self.standings if self._is_preloaded(one)), None)
        if change is None:
            return
        self._change = change, now
        for name in change.let_go:
            one = self._by_name[name]
            one.leaving_since, one.replicas.leaving = now, True
            waited = span(now - self._by_name[change.load].since)
            log.info("%s gives way to %s, for which requests have waited %s", name, change.load, waited)
            self._let_go(one, now)
        self._load(change, now)

    @property
    def _turns(self) -> Turns:
        models = self._settings.now.models
        return Turns(models.max_wait, models.longest_wait)

    def _fit(self, names: Collection[str]) -> bool:
        return fit([self._by_name[name].replicas.model for name in names])

    def _is_preloaded(self, one: Standing) -> bool:
        if one.failed or one.replicas.retired:
            return False
        return one.replicas.model.front and self._settings.now.engine.preload

    def _hot(self, one: Standing, now: float) -> Hot:
        begun = self._change[1] + self._swap(one) if self._change else now
        since = one.ready_at if one.ready_at is not None else max(now, begun)
        priority = one.need.priority if one.need else None
        left = one.seconds_for(one.need.left, None) if one.need else None
        return Hot(one.name, since, priority, left, one.idle_since or now, self._stays(one))

    def _stays(self, one: Standing) -> bool:
        return any(traffic.has(ticket) for ticket in one.interrupted for traffic in self._of(one))

    def _waiting(self, one: Standing) -> Waiting:
        assert one.need is not None
        known = next((other.speed.requests for other in self.standings if other.on), None)
        work = one.seconds_for(one.need.shortest, known)
        return Waiting(one.name, one.need.priority, one.since, self._swap(one), work)

    def _swap(self, one: Standing) -> float:
        known = [other.swap for other in self.standings if other.swap is not None]
        return one.swap if one.swap is not None else max(known, default=_A_SWAP)

    def _of(self, one: Standing) -> list[Traffic]:
        return [traffic for traffic in self._dispatcher if traffic.slot.model == one.name]

    def wanted(self, stopping: bool) -> set[str]:
        """Return the models whose engines are to be there now; of those that are to be started, one at a time."""
        found, may_load = set(), not any(one.replicas.loading for one in self.standings)
        for one in self.standings:
            if not one.on or one.leaving_since is not None or one.ending or one.replicas.retired:
                continue
            at_work = any(traffic.in_flight for traffic in self._of(one))
            if at_work or (not stopping and (one.need or self._is_preloaded(one))):
                if one.replicas.occupied or may_load:
                    found.add(one.name)
                may_load &= one.replicas.occupied
        return found

    # -- a model that cannot be loaded

    def _give_up(self, one: Standing, why: str) -> None:
        """Load it no more, and park what nothing else of this daemon can do anything for; all others go on."""
        one.failed = f"{one.name} cannot be loaded: {why}"
        one.replicas.try_again()  # when that is, is decided here
        one.knew = {life.number: life.state.resumes for life in self._with_work_for(one)}
        log.error("%s; what is for it is parked, other models go on", one.failed)

    def _try_again_if_asked(self, one: Standing) -> None:
        """Load it again when somebody has said resume; and once for a batch that has come later."""
        assert one.failed is not None
        for life in self._with_work_for(one):
            if life.state.held:
                continue
            resumed = life.state.resumes > one.knew.get(life.number, life.state.resumes)
            if resumed or life.number not in one.knew:
                log.info("%s is tried again", one.name)
                one.failed = None
                one.replicas.try_again(*(() if resumed else (1,)))
                return
            if not self._has_more(life):
                failed = frozenset().union(*(other.replicas.model.lanes for other in self._all if other.failed))
                cannot = [lane.model or one.name for lane in life.queue.lanes_for(failed) if lane.left]
                self._batches.safely(life, partial(life.parking.park, one.failed, cannot))

    def _with_work_for(self, one: Standing) -> list[Life]:
        lanes = one.replicas.model.lanes
        return [life for life in self._batches if any(lane.left for lane in life.queue.lanes_for(lanes))]

    def _has_more(self, life: Life) -> bool:
        """Whether something of a batch can still be done, or is being done."""
        able: frozenset[str] = frozenset().union(*(one.replicas.model.lanes for one in self._all if not one.failed))
        return life.queue.in_flight > 0 or any(lane.left for lane in life.queue.lanes_for(able))

    # -- for people

    def said(self, now: float, wall: float) -> Iterator[dict[str, Any]]:
        """Yield how each model stands; times in Unix seconds."""
        hot = [self._hot(one, now) for one in self.standings if one.on]
        waiting = [one for one in self.standings if one.waits(now)]
        due = self._turns.due(now, hot, [self._waiting(one) for one in waiting])
        for one in self.standings:
            view: dict[str, Any] = {"model": one.name, "state": one.state}
            if one.failed:
                view["why"] = one.failed
            elif one in waiting:
                view["since"] = round(wall - (now - one.since), 1)
                by = due[one.name]
                view["turn_by"] = round(wall + (by - now), 1) if by is not None else None
                view["behind"] = [other.model for other in hot if other.priority is not None]
            yield view
