"""The sums that the worker keeps of what vLLM counts."""

from __future__ import annotations

from types import SimpleNamespace

from inbox_daemon.engine.worker.counters import Counters, put_into
from inbox_daemon.records import EngineStats


def test_tokens_add_up_over_steps_and_replicas_and_queues_are_as_last_said() -> None:
    counters = Counters()
    step = SimpleNamespace(num_prompt_tokens=100, num_generation_tokens=7, num_preempted_reqs=1)
    busy = SimpleNamespace(num_running_reqs=9, num_waiting_reqs=5, kv_cache_usage=0.5)
    calm = SimpleNamespace(num_running_reqs=1, num_waiting_reqs=0, num_skipped_waiting_reqs=2, kv_cache_usage=0.1)
    counters.record(busy, step)
    counters.record(scheduler_stats=calm, iteration_stats=None, mm_cache_stats=None, engine_idx=0)
    counters.record(scheduler_stats=busy, iteration_stats=step, engine_idx=1)
    assert counters.stats() == EngineStats(10, 7, 0.3, 200, 14, 2)


def test_an_engine_whose_settings_switch_counting_off_counts_nothing() -> None:
    assert put_into(SimpleNamespace(logger_manager=None)).stats() == EngineStats()
