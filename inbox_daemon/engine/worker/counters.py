"""What vLLM counts, kept in the few sums that the daemon asks for. Imports no vllm.

vLLM's own loggers keep histograms, of every token's latency among them, which nobody reads here: a tenth of the time
that the worker's event loop has.
"""

from __future__ import annotations

from typing import Any

from inbox_daemon.records import EngineStats


class Counters:
    def __init__(self) -> None:
        self._schedulers: dict[int, Any] = {}  # the latest word of each replica's
        self._input_tokens = self._output_tokens = self._preemptions = 0

    def record(
        self,
        scheduler_stats: Any = None,
        iteration_stats: Any = None,
        mm_cache_stats: Any = None,
        engine_idx: int | None = None,
        **_: Any,
    ) -> None:
        """Stands in for `StatLoggerManager.record` (vLLM 0.26 to 0.33): what one step of one replica has done."""
        if scheduler_stats is not None:
            self._schedulers[engine_idx or 0] = scheduler_stats
        if iteration_stats is not None:
            self._input_tokens += iteration_stats.num_prompt_tokens
            self._output_tokens += iteration_stats.num_generation_tokens
            self._preemptions += iteration_stats.num_preempted_reqs

    def stats(self) -> EngineStats:
        """Return the sums over all replicas; of the KV cache, the mean."""
        latest = self._schedulers.values()
        return EngineStats(
            running=sum(one.num_running_reqs for one in latest),
            waiting=sum(one.num_waiting_reqs + getattr(one, "num_skipped_waiting_reqs", 0) for one in latest),
            kv_cache_usage=round(sum(one.kv_cache_usage for one in latest) / max(1, len(latest)), 4),
            input_tokens=self._input_tokens,
            output_tokens=self._output_tokens,
            preemptions=self._preemptions,
        )


def put_into(client: Any) -> Counters:
    """Have an engine client of vLLM count here, and nowhere else. All stays 0 where its settings say not to count."""
    counters = Counters()
    if (loggers := getattr(client, "logger_manager", None)) is not None:
        loggers.record = counters.record
    return counters
