"""What a daemon with two GPUs says of itself and a batch: the shape that every view reads. No test lives here."""

from __future__ import annotations

import copy
import time
from typing import Any

GIB = 1 << 30
MODEL = "Qwen/Qwen3-4B"
OWN_COUNT = ("running", "waiting", "kv_cache_usage", "input_tokens", "output_tokens", "preemptions")


def gpu(index: int, **changed: Any) -> dict[str, Any]:
    return {
        "index": index,
        "uuid": f"GPU-0f3c6a1e-0000-4000-8000-00000000000{index}",
        "name": "NVIDIA H200",
        "utilization": 0.97,
        "memory_used_bytes": 129 * GIB,
        "memory_total_bytes": 140 * GIB,
        "temperature_celsius": 61.0,
        "power_watts": 642.5,
        "power_limit_watts": 700.0,
        "sm_clock_hertz": 1_980_000_000,
        "throttle": ["sw_power_cap"],
        "ecc_uncorrected": 0,
        "xid": None,
        "xid_at": None,
        "processes": [{"pid": 4711, "memory_bytes": 128 * GIB}],
    } | changed


def engine(number: int = 1, **changed: Any) -> dict[str, Any]:
    """One that answers, with every value there is; in another state it has no count of its own."""
    said = {
        "engine": number,
        "model": MODEL,
        "host": "gpu-box",
        "state": "ready",
        "since": time.time() - 900,
        "version": "vllm 0.32.0",
        "gpus": ["NVIDIA H200 (driver 570.124)"],
        "start": 2,
        "starts": 2,
        "deaths": 1,
        "in_flight": 1536,
        "running": 1024,
        "waiting": 512,
        "kv_cache_usage": 0.64,
        "input_tokens": 4_000_000,
        "output_tokens": 1_100_000,
        "preemptions": 3,
    } | changed
    return said if said["state"] == "ready" else {key: value for key, value in said.items() if key not in OWN_COUNT}


def daemon(**changed: Any) -> dict[str, Any]:
    """With every value there is."""
    now = time.time()
    return {
        "schema": 3,
        "hostname": "gpu-box",
        "pid": 4700,
        "started_at": now - 4000,
        "at": now,
        "alive": True,
        "models": [MODEL],
        "engines": [engine()],
        "requests": {
            "completed": 7000,
            "failed": 3,
            "input_tokens": 3_997_000,
            "cached_tokens": 2_500_000,
            "output_tokens": 1_064_000,
            "progress_at": now - 0.4,
        },
        "gpus": {
            "state": "ok",
            "at": now - 1,
            "problem": None,
            "devices": [gpu(0), gpu(1, xid=31, xid_at=now - 86400)],
        },
        "host": {"memory_used_ratio": 0.41, "disk_used_ratio": 0.73, "disk_free_bytes": 400 * GIB},
        "alerts": [
            {
                "name": "BatchLate",
                "severity": "warning",
                "since": now - 60,
                "text": "candidates will be done 40 min after its deadline",
                "batch": "candidates",
            }
        ],
        "log": [],
        "waiting": {"half.jsonl": "ends in the middle of a line"},
        "waiting_unnamed": 0,
        "batches": 1,
    } | changed


def batch(name: str = "candidates", **changed: Any) -> dict[str, Any]:
    return {
        "schema": 3,
        "id": f"batch_{name}",
        "name": name,
        "status": "in_progress",
        "created_at": int(time.time()) - 900,
        "request_counts": {"total": 50_000, "completed": 7000, "failed": 3},
        "usage": {"input_tokens": 3_997_000, "output_tokens": 1_064_000},
        "in_flight": 1536,
        "paused": False,
        "parked": None,
        "waiting_for_model": None,
        "cannot_load": None,
        "waiting_for_disk_bytes": None,
        "requests_per_second": 92.5,
        "output_tokens_per_second": 14_060.0,
        "eta_seconds": 465,
        "engine_deaths": 1,
        "model": MODEL,
        "engines": [],
    } | changed


def without(said: dict[str, Any], *paths: str) -> dict[str, Any]:
    """A copy in which what these dotted paths name is missing."""
    said = copy.deepcopy(said)
    for path in paths:
        *sections, key = path.split(".")
        inner = said
        for section in sections:
            inner = inner[section]
        del inner[key]
    return said


def of_schema_1(**changed: Any) -> dict[str, Any]:
    """What a daemon of the release before says of itself."""
    engine = {"state": "ready", "since": 0.0, "model": MODEL, "version": "vllm 0.32.0", "running": 0, "waiting": 0}
    said = daemon(engine=engine | {"kv_cache_usage": 0.0, "starts": 1, "deaths": 0, "in_flight": 0})
    return without(said, "schema", "models", "engines", "waiting_unnamed") | changed
