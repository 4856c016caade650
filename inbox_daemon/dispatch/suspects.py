"""Which request killed the engine? Narrowed down by halves, so that the guilty one costs itself and no neighbour.

Pure: knows tickets and deaths, nothing of engines or batches. The first death accuses nobody: whatever was in flight
simply runs again. Requests that were in flight at two deaths in a row are suspects; halves of them then run with
nothing beside them. A request that was alone when the engine died is guilty. For one poison among n requests in flight
that is at most log2(n) + 2 deaths.
"""

from __future__ import annotations

from collections.abc import Callable, Collection


class Suspects:
    """What the deaths so far say about the requests that were in flight."""

    def __init__(self) -> None:
        self._last: frozenset[int] = frozenset()
        self._suspects: list[int] = []
        self._group: list[int] = []

    @property
    def narrowing(self) -> bool:
        """Whether only `group` may be in flight."""
        return bool(self._suspects)

    def group(self, pending: Callable[[int], bool]) -> list[int]:
        """Return the next half to run alone; to be called when nothing is in flight.

        Args:
            pending: says whether a ticket still waits for its outcome and may run now. One that does not has been
                answered, cancelled or paused since, and is no suspect any more.
        """
        self._suspects = [ticket for ticket in self._suspects if pending(ticket)]
        self._group = self._suspects[: (len(self._suspects) + 1) // 2]
        return self._group

    def death(self, in_flight: Collection[int]) -> int | None:
        """Learn from a death with these tickets in flight; return the guilty one once it is certain."""
        if not in_flight:
            return None
        if self._group:
            hit = [ticket for ticket in self._group if ticket in in_flight]
            self._group = []
            if len(hit) == 1:
                self.clear()
                return hit[0]
            self._suspects = hit
            return None
        self._suspects = sorted(self._last.intersection(in_flight))
        self._last = frozenset(in_flight)
        if len(in_flight) == len(self._suspects) == 1:
            return self._suspects.pop()
        return None

    def clear(self) -> None:
        """Forget all suspicion: the guilty one is found, or the death had a cause of its own."""
        self._last = frozenset()
        self._suspects = []
        self._group = []


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
