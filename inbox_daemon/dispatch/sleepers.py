"""Which models are put to sleep instead of ended, and which sleepers are ended after all: the host's memory is short.

An engine that sleeps has no request, and holds its weights in the host's memory and a little of its GPU: 1.9 GB of an
H100. Whose turn it is, `turns` says; `rotation` carries that out.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from inbox_daemon.dispatch.standing import Standing
from inbox_daemon.machine import host
from inbox_daemon.settings import Settings

log = logging.getLogger(__name__)

_UNKNOWN = 16 << 30  # bytes of weights, where nothing says so
_SHARE = 0.5  # of the host's free memory, which one more may take
_SHORT = 0.9  # of the host's memory in use: a sleeper is ended
_LOOK_EVERY = 2.0  # seconds between two looks at that
_CHANGES_WITHIN = 60.0  # seconds in which an engine falls asleep or wakes; one that does not, hangs


class Sleepers:
    """The models of one rotation that are asleep. Times are monotonic seconds."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._looked_at = float("-inf")

    def may(self, one: Standing) -> bool:
        """Whether a model that gives way is to sleep: its engines can, and the host has memory for its weights."""
        if not self._settings.now.models.sleep or not one.replicas.can_sleep:
            return False
        taken, whole = host.memory()
        weights = one.replicas.weights
        needed = _UNKNOWN if weights is None else weights
        if needed <= _SHARE * (whole - taken):
            return True
        free = (whole - taken) / 1e9
        log.info("%s ends and does not sleep: its weights would take more than half of %.0f GB free", one.name, free)
        return False

    def watch(self, one: Standing, now: float) -> None:
        """Have an engine killed that neither falls asleep nor wakes; it has no request."""
        if one.ending and now - one.slept_at > _CHANGES_WITHIN:
            for slot in one.replicas:
                if not slot.asleep:
                    slot.kill(f"it did not fall asleep within {_CHANGES_WITHIN:.0f} s")
        for slot in one.replicas:
            if slot.has_been_waking(now) > _CHANGES_WITHIN:
                slot.kill(f"it did not wake within {_CHANGES_WITHIN:.0f} s")

    def spare_the_host(self, standings: Sequence[Standing], now: float) -> None:
        """End the model that has slept longest where the host's memory is short: the kernel would end whom it likes."""
        if now - self._looked_at < _LOOK_EVERY:
            return
        self._looked_at = now
        if not (asleep := _asleep(standings)):
            return
        taken, whole = host.memory()
        if taken > _SHORT * whole:
            used = f"{taken / whole:.0%}"
            log.warning("%s is asleep no more: %s of the host's memory is in use", asleep[0].name, used)
            asleep[0].replicas.end()

    def end_all(self, standings: Sequence[Standing], why: str) -> bool:
        """End all that are asleep; say whether there were any."""
        asleep = _asleep(standings)
        for one in asleep:
            log.warning("%s is asleep no more: %s", one.name, why)
            one.replicas.end()
        return bool(asleep)


def _asleep(standings: Sequence[Standing]) -> list[Standing]:
    """Return those that are asleep and not about to wake, the one first that has slept longest."""
    return sorted((one for one in standings if one.replicas.asleep and not one.on), key=lambda one: one.slept_at)
