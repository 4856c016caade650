"""All models of the daemon: those that share GPUs in one rotation, and the rotations beside each other.

Owns which rotations there are. Which models there are says `roster`; what of a rotation's is loaded, itself.
"""

from __future__ import annotations

import time
from typing import Any

from inbox_daemon.batches import Batches
from inbox_daemon.dispatch.demand import Demand
from inbox_daemon.dispatch.dispatcher import Dispatcher
from inbox_daemon.dispatch.roster import Roster
from inbox_daemon.dispatch.rotation import Rotation
from inbox_daemon.dispatch.standing import Standing
from inbox_daemon.engine.fleet import Fleet
from inbox_daemon.engine.placement import sharing
from inbox_daemon.engine.replicas import Replicas
from inbox_daemon.settings import Settings

_LOOK_EVERY = 0.1  # seconds between two looks at what waits, while nothing changes


class Rotations:
    """The rotations of the daemon. One model alone is in none: it is loaded whenever it is wanted.

    Attributes:
        said: how each model stands, for people; [] where there is only one. Replaced whole.
    """

    def __init__(self, fleet: Fleet, dispatcher: Dispatcher, batches: Batches, settings: Settings) -> None:
        self._fleet, self._dispatcher, self._batches, self._settings = fleet, dispatcher, batches, settings
        self._several = False
        self.said: list[dict[str, Any]] = []
        self._demand = Demand()
        self._roster = Roster(fleet, dispatcher, batches, settings)
        self._looked_at = float("-inf")
        self._standings: list[Standing] = []
        self._all: list[Rotation] = []
        self._arrange(0.0)

    @property
    def changing(self) -> bool:
        """Whether a model is giving way: the loop is not to sleep for long."""
        return any(one.leaving_since is not None or one.ending for one in self._standings)

    def turn(self, now: float, wanted: bool, stopping: bool) -> None:
        """Have engines of the right models started, and let go.

        Args:
            wanted: whether there is work for an engine, of whichever model.
        """
        due = self.changing or now - self._looked_at >= _LOOK_EVERY
        if due and not stopping and all(rotation.at_rest for rotation in self._all) and self._roster.look():
            self._arrange(now)
        if due:
            self._looked_at = now
        if not self._several:
            there = [name for name, replicas in self._fleet.models.items() if not replicas.retired]
            self._fleet.ensure(there if wanted else (), now)
            return
        if due:
            self._demand.look(self._batches, now)
            for rotation in self._all:
                rotation.look(self._demand, now, stopping)
            found = {view["model"]: view for rotation in self._all for view in rotation.said(now, time.time())}
            self.said = [found[name] for name in self._fleet.models]
        self._fleet.ensure({name for rotation in self._all for name in rotation.wanted(stopping)}, now)

    def _arrange(self, now: float) -> None:
        """Have a rotation for each set of models that share GPUs. How those stand that were there before, stays."""
        self._several |= self._settings.several
        if not self._several:
            return
        known = {id(one.replicas): one for one in self._standings}
        self._standings = [known.get(id(one)) or _standing(one, now) for one in self._fleet.models.values()]
        groups = sharing([one.replicas.model for one in self._standings])
        by_name = {one.name: one for one in self._standings}
        self._all = [
            Rotation(
                [by_name[model.name] for model in group],
                self._standings,
                self._dispatcher,
                self._batches,
                self._settings,
            )
            for group in groups
        ]


def _standing(replicas: Replicas, now: float) -> Standing:
    """Return how a model stands that is in a rotation from now on; it may have been alone before, and be loaded."""
    return Standing(replicas, on=replicas.occupied, ready_at=now if replicas.ready else None)
