"""What is done with an engine that hangs: it is looked at first, and killed then. The loop never waits for either.

Decides nothing: `health` says which engine hangs, and why that is so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from inbox_daemon.batch.life import Life
from inbox_daemon.batch.running import Running
from inbox_daemon.batches import Batches
from inbox_daemon.dispatch.traffic import Traffic
from inbox_daemon.journal import Message, tell
from inbox_daemon.records import Gpus
from inbox_daemon.spool import outbox
from inbox_daemon.watch.autopsy import Autopsy, Scene, report

_NAMED = 100  # requests in flight that an autopsy names


class Treatment:
    """The treatment of all engines, each by the number of its slot."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._autopsies: dict[int, Autopsy] = {}
        self._examined: dict[int, int] = {}  # which start of a slot's engine the last autopsy was of

    def give(self, traffic: Traffic, engine: Mapping[str, Any], kill: str | None, gpus: Gpus, now: float) -> None:
        """Have an engine that hangs examined, then killed; leave one alone that has gone on meanwhile.

        Args:
            engine: what the views say of it.
            kill: why it must be killed; None: it need not.
        """
        slot = traffic.slot
        if kill and slot.number not in self._autopsies and self._examined.get(slot.number) != slot.start:
            self._examined[slot.number] = slot.start
            self._autopsies[slot.number] = Autopsy(Scene(kill, engine, gpus, slot.evidence()), now)
        if (autopsy := self._autopsies.get(slot.number)) is not None:
            processes = autopsy.look(now)
            if processes is None:
                return
            self._write(traffic, autopsy.scene, processes)
            del self._autopsies[slot.number]
        if kill:
            slot.kill(kill)
        else:
            self._examined.pop(slot.number, None)

    def _write(self, traffic: Traffic, scene: Scene, processes: str) -> None:
        """Put the autopsy next to the status of each batch that the engine had requests of, or that waits for it."""
        for life in self._batches:
            places = traffic.places_of(life)
            waits = any(lane.takeable for lane in life.queue.lanes_for(traffic.slot.models))
            if life.running is not None and (places or waits):
                self._batches.safely(life, partial(_write_for, life, life.running, places, scene, processes))

    def end(self) -> None:
        for autopsy in self._autopsies.values():
            autopsy.end()


def _write_for(life: Life, running: Running, places: list[int], scene: Scene, processes: str) -> None:
    text = report(scene, processes, len(places), running.named(sorted(places), _NAMED), time.time())
    name = outbox.write_autopsy(life.face.folder(), text)
    life.face.log.info("%s: autopsy of the engine: %s", life.name, name, extra=tell(Message.AUTOPSY))
