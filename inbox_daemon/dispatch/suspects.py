"""Which request killed the engine? Narrowed down by halves, so that the guilty one costs itself and no neighbour.

Pure: knows tickets, deaths and engines by their numbers, nothing of either. The first death accuses nobody: whatever
was in flight simply runs again. Requests that were in flight at two deaths, of whichever engines, are suspects; halves
of them then run with nothing beside them on one engine, the court, while the others go on with everything else. A
request that was alone when its engine died is guilty. For one poison among n requests in flight of an engine that is
at most log2(n) + 2 deaths, however many engines there are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping


class Suspects:
    """What the deaths so far of all engines of one model say about the requests that were in flight."""

    def __init__(self) -> None:
        self._died_with: set[int] = set()  # in flight at a death, and without an outcome yet
        self._narrow: list[int] = []  # the suspects of whom one is certainly guilty, or may be
        self._rest: list[int] = []  # whose turn comes when nobody of the others was it
        self._court: int | None = None
        self._group: list[int] = []  # what the court was given

    @property
    def listed(self) -> list[int]:
        """The suspects' tickets; nobody but the court may have them until suspicion ends."""
        return self._narrow + self._rest

    @property
    def narrowing(self) -> bool:
        """Whether a request is being sought."""
        return bool(self._narrow or self._rest)

    def court(self, in_flight: Mapping[int, int]) -> int | None:
        """Return which engine gets suspects and nothing else; None while there are none, or nobody is able to.

        Args:
            in_flight: how many requests each engine has, by its number, that is ready or about to be.
        """
        if not self.narrowing or not in_flight:
            return None
        if self._court not in in_flight:  # it does not come back soon
            self._court = min(in_flight, key=in_flight.__getitem__)
            self._group = []
        return self._court

    def group(self, pending: Callable[[int], bool]) -> list[int]:
        """Return the next half for the court; to be called when it has nothing in flight.

        Args:
            pending: says whether a ticket still waits for its outcome and may run now. One that does not has been
                answered, cancelled or paused since, and is no suspect any more.
        """
        self._narrow = [ticket for ticket in self._narrow if pending(ticket)]
        self._rest = [ticket for ticket in self._rest if pending(ticket)]
        if not self._narrow:
            self._narrow, self._rest = self._rest, []
        self._group = self._narrow[: (len(self._narrow) + 1) // 2]
        return self._group

    def death(self, engine: int, in_flight: Collection[int]) -> int | None:
        """Learn from the death of an engine with these tickets in flight; return the guilty one once it is certain."""
        if not in_flight:
            return None
        if engine == self._court and self._group:
            hit = [ticket for ticket in self._group if ticket in in_flight]
            if len(hit) == 1:
                self.clear()
                return hit[0]
            self._rest += [ticket for ticket in self._narrow if ticket not in hit]
            self._narrow, self._court, self._group = hit, None, []
            return None
        accused = self._died_with.intersection(in_flight)
        if len(in_flight) == len(accused) == 1:
            return accused.pop()
        self._rest += sorted(accused.difference(self.listed))
        self._died_with.update(in_flight)
        return None

    def answered(self, tickets: Iterable[int]) -> None:
        """Forget what has its outcome: no engine will die of it any more."""
        if self._died_with:
            self._died_with.difference_update(tickets)

    def clear(self) -> None:
        """Forget all suspicion: the guilty one is found, or the death had a cause of its own."""
        self._narrow, self._rest, self._group, self._court = [], [], [], None
        self._died_with.clear()


# What the log of an engine says when the machine, not a request, ended it. Xid numbers: NVIDIA's Xid catalogue.
_OF_THE_MACHINE = (
    "NVRM: Xid",
    "GPU is lost",
    "fallen off the bus",
    "uncorrectable ECC",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
    "NVML_ERROR_GPU_IS_LOST",
    "NVLink error",
)


def blames_no_request(log: Collection[str]) -> bool:
    """Say whether an engine's last words name a cause that no request can have."""
    return any(sign in line for line in log for sign in _OF_THE_MACHINE)
