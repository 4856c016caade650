"""Which models the daemon has: those that are configured, and who comes and goes while it runs.

A reload may add models, change them or take them away; with `models.allow_any` requests may name others. What has
requests for it stays until these are done, and an engine that is loaded goes on as it was until then. Never decides
what is loaded (`turns`).
"""

from __future__ import annotations

from inbox_daemon.batch.life import Life
from inbox_daemon.batches import Batches
from inbox_daemon.config.models import Model, lanes_of, unlisted
from inbox_daemon.config.names import is_on_hugging_face
from inbox_daemon.dispatch.dispatcher import Dispatcher
from inbox_daemon.engine.fleet import Fleet
from inbox_daemon.engine.replicas import Replicas
from inbox_daemon.settings import Settings


class Roster:
    """The models of one daemon; has the fleet have slots for them, and no others."""

    def __init__(self, fleet: Fleet, dispatcher: Dispatcher, batches: Batches, settings: Settings) -> None:
        self._fleet, self._dispatcher, self._batches, self._settings = fleet, dispatcher, batches, settings

    def look(self) -> bool:
        """Have models come and go as settings and batches say; return whether any has. To be asked while none loads
        and none gives way: who goes ends its engines here.
        """
        settings, fleet = self._settings, self._fleet
        if settings.models == tuple(one.model for one in fleet.models.values()) and not settings.now.models.allow_any:
            return False
        before = fleet.changes
        listed = {model.name: model for model in settings.models}
        for name, replicas in list(fleet.models.items()):
            now = listed.get(name)
            if now != replicas.model and self._has_gone(replicas, changed=now is not None):
                fleet.remove(name)
        for model in [*settings.models, *self._asked_for()]:
            if model.name not in fleet.models:
                fleet.add(model)
        there = [one.model for one in fleet.models.values()]
        settings.keep_beside(tuple(model for model in there if listed.get(model.name) != model))
        return fleet.changes != before

    def _has_gone(self, replicas: Replicas, *, changed: bool) -> bool:
        """Let a model go that is not configured, or not as it is now, once nobody needs it; say whether it is gone."""
        if not replicas.retired and not self._is_needed(replicas, changed=changed):
            replicas.retired = True
            replicas.end()
        return replicas.retired and replicas.ended

    def _is_needed(self, replicas: Replicas, *, changed: bool) -> bool:
        """Whether a model is to stay as it is: `changed`, while it has something to do; else, while anything is for it.

        One that `models.allow_any` has brought stays while it is loaded: somebody may ask for it again.
        """
        model = replicas.model
        if any(traffic.in_flight for traffic in self._dispatcher if traffic.slot.model == model.name):
            return True
        if changed:
            lanes = [lane for life in self._batches for lane in life.queue.lanes_for(model.lanes)]
            return replicas.occupied and any(lane.wants_engine for lane in lanes)
        stays = not model.listed and self._settings.now.models.allow_any and replicas.occupied
        return stays or any(_has(life, model) for life in self._batches)

    def _asked_for(self) -> list[Model]:
        """Return the models that batches have requests for, and the settings do not have but allow."""
        if not self._settings.now.models.allow_any:
            return []
        lanes = {lane.model for life in self._batches for lane in life.queue.lanes if lane.left}
        known = lanes_of([*self._settings.models, *(one.model for one in self._fleet.models.values())])
        return [unlisted(self._settings.now, lane) for lane in sorted(lanes - known) if is_on_hugging_face(lane)]


def _has(life: Life, model: Model) -> bool:
    """Whether a batch has requests for a model without an outcome, or may have some: it is not read yet."""
    if life.running is None:
        accepted = life.state.accepted
        return not life.state.status.final and (accepted is None or not model.lanes.isdisjoint(accepted.models))
    return any(lane.left or lane.in_flight for lane in life.queue.lanes_for(model.lanes))
