"""How long rows of `compare.py` are expected to take, so that a deadline leaves out what would not fit.

Starts from an H100's rates, or from two CPU cores', and learns from every row that has been measured.
"""

from __future__ import annotations

from collections.abc import Mapping

SAMPLED_FILES = 3  # of many, that a peer which starts an engine for each file is run on

RATES = {"candidates": 55.0, "short": 750.0, "documents": 50.0, "many-files": 85.0}  # requests/s
STARTS = {"run-batch": 85.0, "run-batch-guide": 35.0, "run-batch-1024": 65.0, "llm-chat": 65.0, "daemon": 65.0}
TINY_RATES = {"candidates": 20.0, "short": 60.0, "documents": 10.0, "many-files": 20.0}
TINY_START = 45.0
SMALL_DURING_BIG = 20.0  # what the small ones add
AROUND = 5.0  # seconds: settling, writing, checking


class Expected:
    """Args: counts: requests of each workload."""

    def __init__(self, tiny: bool, counts: Mapping[str, int]) -> None:
        self._counts = counts
        self._rates = dict(TINY_RATES if tiny else RATES)
        self._starts = dict.fromkeys(STARTS, TINY_START) if tiny else dict(STARTS)
        self._measured: set[str] = set()

    def start(self, peer: str) -> float:
        """Seconds until a peer's engine is loaded."""
        return self._starts[peer]

    def seconds(self, workload: str, peer: str) -> float:
        """Seconds of a row, its first engine being loaded."""
        if workload == "small-during-big":
            return self._counts[workload] / self._rates["candidates"] + SMALL_DURING_BIG
        if workload == "many-files" and peer != "daemon":
            return (SAMPLED_FILES - 1) * self._starts[peer] + 2 * AROUND
        computed = 2 if workload == "many-files" else 1  # one file as well as many
        return computed * self._counts[workload] / self._rates[workload] + AROUND

    def learn(self, workload: str, peer: str, start: float, rate: float) -> None:
        """Take over what was measured; of a workload's peers, the slowest one."""
        self._starts[peer] = start
        known = self._rates[workload] if workload in self._measured else rate
        self._rates[workload] = min(known, rate)
        self._measured.add(workload)
