"""All traffic between batches and engines: which engine gets how much, and whom the death of one accuses.

Owns a `Traffic` for each engine of the fleet and the `Suspects` of each model. Which batch gets how much of one
engine's room is not its business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from inbox_daemon.batches import Batches
from inbox_daemon.dispatch.share import runs
from inbox_daemon.dispatch.suspects import Suspects, blames_no_request
from inbox_daemon.dispatch.traffic import Collected, Traffic
from inbox_daemon.engine.fleet import Fleet
from inbox_daemon.records import number_of, place_of


class Dispatcher:
    """The one that hands requests out, over all engines."""

    def __init__(self, fleet: Fleet, batches: Batches) -> None:
        self._fleet, self._batches = fleet, batches
        self._traffic: list[Traffic] = []
        self._changes = 0  # of the fleet, that the traffic is of
        self._suspects: dict[str, Suspects] = {}  # by model
        self._withheld: set[int] = set()  # suspects, in their queues

    def __iter__(self) -> Iterator[Traffic]:
        """Yield the traffic of each engine, in the order of their numbers."""
        if self._changes != self._fleet.changes:
            self._changes = self._fleet.changes
            known = {traffic.slot.number: traffic for traffic in self._traffic}
            self._traffic = [known.get(slot.number) or Traffic(slot, self._batches) for slot in self._fleet.slots]
            for model in self._fleet.models:
                self._suspects.setdefault(model, Suspects())
        return iter(self._traffic)

    @property
    def in_flight(self) -> int:
        """Requests that engines have, of batches that are in work."""
        return sum(life.queue.in_flight for life in self._batches)

    # -- out

    def feed(self) -> None:
        """Hand out what engines have room for."""
        for traffic in self:
            traffic.recall_what_is_held()
        for model, suspects in self._suspects.items():
            if model not in self._fleet.models:
                continue  # the settings have it no more, and no batch has requests for it
            able = [traffic for traffic in self if traffic.slot.model == model and not traffic.slot.failures]
            ready = [] if self._fleet.models[model].leaving else [traffic for traffic in able if traffic.slot.info]
            # One that has just died comes back with nothing to do; no other needs to be drained for it.
            court = suspects.court({traffic.slot.number: traffic.in_flight for traffic in able})
            for traffic in ready:
                if traffic.slot.number == court and not traffic.in_flight:
                    traffic.feed_these(suspects.group(self._may_run))
                    self._withhold()
            self._feed([traffic for traffic in ready if traffic.slot.number != court and traffic.room > 0])

    def _feed(self, ready: Sequence[Traffic]) -> None:
        """Share out what there is to do for engines of one model: runs of neighbours, to the one with least."""
        models = ready[0].slot.models if ready else ()
        lanes = [lane for life in self._batches if (lane := life.queue.lane(models))]
        count = min(sum(lane.takeable for lane in lanes), sum(traffic.room for traffic in ready))
        for at, length in runs([traffic.in_flight for traffic in ready], count) if ready else ():
            ready[at].feed(length)

    def recall_all(self) -> None:
        """Ask all engines for all that they have: what is not answered by now will run again, or never."""
        for traffic in self:
            traffic.recall_all()

    # -- in

    def collect(self, now: float) -> bool:
        """Record what has come back from all engines; say whether anything has. `now` is monotonic seconds.

        Raises:
            ConfigError: vLLM does not accept the settings, and never has; with one model configured.
        """
        anything = False
        for traffic in self:
            collected = traffic.collect(now, self._fleet.models[traffic.slot.model].proven)
            self._suspects[traffic.slot.model].answered(collected.answered)
            self._accuse(traffic, collected)
            anything |= bool(collected)
        return anything

    def _accuse(self, traffic: Traffic, collected: Collected) -> None:
        """Learn from an engine's death which request may have caused it, and convict the one that certainly has."""
        if (died := collected.died) is None:
            return
        suspects, guilty = self._suspects[traffic.slot.model], None
        if blames_no_request(died.log):
            suspects.clear()
        else:
            guilty = suspects.death(traffic.slot.number, collected.lost)
        self._withhold()
        if guilty is not None and (found := self._batches.running(number_of(guilty))):
            life, running = found
            self._batches.safely(life, partial(running.convict, place_of(guilty), died))

    def is_to_be_done(self, ticket: int) -> bool:
        """Whether a request may run now, or an engine has it."""
        return self._may_run(ticket) or any(traffic.has(ticket) for traffic in self)

    def _may_run(self, ticket: int) -> bool:
        life = self._batches.get(number_of(ticket))
        return life is not None and life.queue.is_left(place_of(ticket))

    def _withhold(self) -> None:
        """Have the suspects, and nothing else, be kept from being handed out with all others.

        All of them anew: those that the court had are like any other request once they are taken back.
        """
        listed = {ticket for suspects in self._suspects.values() for ticket in suspects.listed}
        for ticket in self._withheld | listed:
            if (life := self._batches.get(number_of(ticket))) is not None:
                change = life.queue.withhold if ticket in listed else life.queue.release
                change(place_of(ticket))
        self._withheld = listed
