"""Which metrics there are, and what of what is published each shows. Pure: what a daemon says in, families out.

No label carries anything of a request; `batch` only names batches that live, and goes with them. Serving and writing
them is `metrics`' business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from inbox_daemon import __version__
from inbox_daemon.spool import views
from inbox_daemon.spool.shapes import BatchObject, DaemonView, EngineView, StandingView

PREFIX = "inbox_daemon_"
ENGINE_STATES = ("off", "loading", "ready", "backing_off", "asleep")
MODEL_STATES = ("off", "asleep", "waiting", "backing_off", "loading", "ready", "leaving", "failed")
GPU_STATES = ("absent", "no_driver", "ok", "lost", "silent")


class _Families:
    """Collects samples by metric. A value of None is no sample; the same labels twice would cost the whole scrape."""

    def __init__(self) -> None:
        self.found: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        self._seen: set[tuple[str, ...]] = set()

    def gauge(self, name: str, text: str, value: float | bool | None, /, **labels: str) -> None:
        self._add(GaugeMetricFamily, name, text, value, labels)

    def counter(self, name: str, text: str, value: float | None, /, **labels: str) -> None:
        """`name` without `_total`."""
        self._add(CounterMetricFamily, name, text, value, labels)

    def one_of(self, name: str, text: str, states: Sequence[str], state: object, /, **labels: str) -> None:
        """One sample a state, 1 for the one that holds."""
        for each in states:
            self.gauge(name, text, each == state, **labels, state=each)

    def _add(self, kind: Any, name: str, text: str, value: float | bool | None, labels: Mapping[str, str]) -> None:
        key = (name, *labels.values())
        if value is None or key in self._seen:
            return
        self._seen.add(key)
        if name not in self.found:
            self.found[name] = kind(PREFIX + name, text, labels=tuple(labels))
        self.found[name].add_metric(tuple(labels.values()), float(value))


def families(
    at: float, daemon: DaemonView, batches: Sequence[BatchObject]
) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
    """Yield every metric. Pure.

    Args:
        at: Unix seconds at which the loop said this.
        daemon: as in SPOOL/daemons; what is missing or null there is no sample here.
        batches: as in `status.json`.
    """
    out = _Families()
    out.gauge("build_info", "The daemon's version.", 1, version=__version__)
    out.gauge("loop_timestamp_seconds", "When the loop last made a pass; it hangs where this stands still.", at)
    _work(out, daemon, batches)
    for status in batches:
        _batch(out, status)
    for engine in views.engines_of(daemon):
        _engine(out, engine)
    for standing in views.standings_of(daemon):
        _standing(out, standing)
    _gpus(out, daemon.get("gpus") or {})
    host = daemon.get("host") or {}
    out.gauge("host_memory_used_ratio", "Memory in use, of the host or the cgroup.", host.get("memory_used_ratio"))
    out.gauge("host_disk_used_ratio", "Use of the disk that holds the spool.", host.get("disk_used_ratio"))
    out.gauge("host_disk_free_bytes", "Free on the disk that holds the spool.", host.get("disk_free_bytes"))
    for alert in daemon.get("alerts") or ():
        labels = {"alert": alert["name"], "severity": alert["severity"], "batch": alert.get("batch") or ""}
        out.gauge("alert_active", "1 for each alert of the daemon's own that is raised.", 1, **labels)
    yield from out.found.values()


def _work(out: _Families, daemon: DaemonView, batches: Sequence[BatchObject]) -> None:
    states = [views.batch_state(status) for status in batches]
    for state in views.BATCH_STATES:
        out.gauge("batches", "Batches in work, each in one state.", states.count(state), state=state)
    waiting = daemon.get("waiting")
    files = None if waiting is None else len(waiting) + daemon.get("waiting_unnamed", 0)
    out.gauge("inbox_files", "Files in the inbox that wait for something.", files)
    work = daemon.get("requests") or {}
    for outcome in ("completed", "failed"):
        out.counter("requests", "Requests with a durable outcome, since start.", work.get(outcome), outcome=outcome)
    out.counter("input_tokens", "Prompt tokens of recorded answers.", work.get("input_tokens"))
    out.counter("cached_input_tokens", "Prompt tokens among them from the prefix cache.", work.get("cached_tokens"))
    out.counter("output_tokens", "Generated tokens of recorded answers.", work.get("output_tokens"))
    progress = work.get("progress_at")
    out.gauge("progress_timestamp_seconds", "When work last advanced by a token or a request, or the start.", progress)


def _batch(out: _Families, status: BatchObject) -> None:
    batch, counts = status["name"], status["request_counts"]
    in_flight = status.get("in_flight") or 0
    requests = {"completed": counts["completed"], "failed": counts["failed"], "in_flight": in_flight}
    requests["left"] = counts["total"] - sum(requests.values())
    for state, count in requests.items():
        out.gauge("batch_requests", "Requests of a batch in work, by state.", count, batch=batch, state=state)
    created, usage = status.get("created_at"), status.get("usage") or {}
    out.gauge("batch_created_timestamp_seconds", "When the batch was claimed.", created, batch=batch)
    eta = status.get("eta_seconds")
    out.gauge("batch_eta_seconds", "Expected until the batch is done.", eta, batch=batch)
    rate, speed = status.get("requests_per_second"), status.get("output_tokens_per_second")
    out.gauge("batch_requests_per_second", "Over the last minute.", rate, batch=batch)
    out.gauge("batch_output_tokens_per_second", "Over the last minute.", speed, batch=batch)
    tokens = usage.get("output_tokens")
    out.gauge("batch_output_tokens", "Generated for the batch, over all starts.", tokens, batch=batch)
    out.gauge("batch_engine_deaths", "Engines that died on the batch.", status.get("engine_deaths"), batch=batch)


def _engine(out: _Families, engine: EngineView) -> None:
    labels = {"engine": str(engine["engine"]), "model": engine["model"], "host": engine["host"]}
    out.one_of("engine_state", "1 for the state the engine is in.", ENGINE_STATES, engine["state"], **labels)
    out.gauge("engine_state_timestamp_seconds", "Since when it is in this state.", engine.get("since"), **labels)
    if version := engine.get("version"):  # known once it has been ready
        out.gauge("engine_info", "What serves the model.", 1, **labels, version=version)
    for name, text, total in (
        ("starts", "Engines started.", engine.get("starts")),
        ("deaths", "Engines that died or were killed.", engine.get("deaths")),
        ("input_tokens", "Prompt tokens, by the engine's own count.", engine.get("input_tokens")),
        ("output_tokens", "Generated tokens, by the engine's own count.", engine.get("output_tokens")),
        ("preemptions", "Requests put back for want of KV cache.", engine.get("preemptions")),
    ):
        out.counter(f"engine_{name}", text, total, **labels)
    for name, text, value in (
        ("requests_in_flight", "Requests handed to the engine.", engine.get("in_flight")),
        ("requests_running", "Requests being computed, as the engine says.", engine.get("running")),
        ("requests_waiting", "Requests in the engine's own queue.", engine.get("waiting")),
        ("kv_cache_usage_ratio", "Use of the KV cache, as the engine says.", engine.get("kv_cache_usage")),
    ):
        out.gauge(f"engine_{name}", text, value, **labels)


def _standing(out: _Families, standing: StandingView) -> None:
    model = standing["model"]
    out.one_of("model_state", "1 for how one of several models stands.", MODEL_STATES, standing["state"], model=model)
    since, due = standing.get("since"), standing.get("turn_by")
    out.gauge("model_waits_since_timestamp_seconds", "Since when requests wait for its turn.", since, model=model)
    out.gauge("model_turn_by_timestamp_seconds", "When its turn begins, at the latest.", due, model=model)


def _gpus(out: _Families, gpus: Mapping[str, Any]) -> None:
    out.one_of("gpu_state", "1 for what the driver's NVML says of the GPUs.", GPU_STATES, gpus.get("state"))
    out.gauge("gpu_sample_timestamp_seconds", "When the GPUs were last asked.", gpus.get("at"))
    for device in gpus.get("devices") or ():
        gpu = str(device["index"])
        labels = {"gpu": gpu, "uuid": str(device.get("uuid") or ""), "name": str(device.get("name") or "")}
        out.gauge("gpu_info", "Which GPU has this number.", 1, **labels)
        for name, text, key in _GPU_GAUGES:
            out.gauge(f"gpu_{name}", text, device.get(key), gpu=gpu)
        out.counter("gpu_ecc_uncorrected", "Memory errors beyond repair.", device.get("ecc_uncorrected"), gpu=gpu)
        processes = device.get("processes")
        held = None if processes is None else len(processes)
        out.gauge("gpu_processes", "Processes that hold memory of it.", held, gpu=gpu)
        for reason in device.get("throttle") or ():
            out.gauge("gpu_throttled", "1 for each reason that slows it down.", 1, gpu=gpu, reason=reason)


_GPU_GAUGES = (
    ("utilization_ratio", "Share of the time with a kernel running, useful or not.", "utilization"),
    ("memory_used_bytes", "GPU memory in use by anybody.", "memory_used_bytes"),
    ("memory_total_bytes", "GPU memory there is.", "memory_total_bytes"),
    ("temperature_celsius", "Temperature of the chip.", "temperature_celsius"),
    ("power_watts", "Power drawn.", "power_watts"),
    ("power_limit_watts", "Power it may draw.", "power_limit_watts"),
    ("sm_clock_hertz", "Clock of its processors.", "sm_clock_hertz"),
    ("xid_code", "The last Xid error, by NVIDIA's number.", "xid"),
    ("xid_timestamp_seconds", "When that was.", "xid_at"),
)
