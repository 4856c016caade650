"""Every setting: its name, default and bounds, as one frozen tree. Reads nothing.

etc/inbox-daemon.toml lists the same settings with their reasons, for people; a test keeps the two equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MIB, GIB = 1 << 20, 1 << 30
MOST_PRIORITY = 10**9 - 1  # nine digits, in a control file, too


def setting(
    default: Any, *, least: float | None = None, choices: tuple[str, ...] = (), each: str = "", looks: str = ""
) -> Any:
    """A setting with its default; `each` is the pattern of its text, or of every text in a list, as `looks` says."""
    return field(default=default, metadata={"least": least, "choices": choices, "each": each, "looks": looks})


_DURATION = r"\d+(\.\d+)?[smhd]?"
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
UNTIL_THE_END = "until the end"


def seconds(duration: str) -> float:
    """Return the seconds of a duration as settings have it: "30d", "12h", "90m", "45s" or a number of seconds."""
    return float(duration.rstrip("smhd")) * _SECONDS.get(duration[-1], 1.0)


@dataclass(frozen=True, slots=True)
class InboxSettings:
    """`[inbox]`: what counts as dropped. Durations are seconds."""

    settle: float = setting(2.0, least=0)
    settle_unproven: float = setting(10.0, least=0)
    rescan: float = setting(15.0, least=0.1)
    wait_for_model: float = setting(300.0, least=0)
    watch: str = setting("auto", choices=("auto", "poll"))
    require_sidecar: bool = setting(False)
    run_resends: bool = setting(False)
    strict: bool = setting(False)
    group_prefixes: bool = setting(True)
    share_answers: bool = setting(True)
    priorities: Mapping[str, int] = field(default_factory=dict)
    max_line_bytes: int = setting(32 * MIB, least=1024)
    max_lines: int = setting(10_000_000, least=1)
    max_file_bytes: int = setting(64 * GIB, least=1024)
    max_claimed: int = setting(256, least=1)
    max_memory_bytes: int = setting(2 * GIB, least=MIB)


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """`[models]`: names that requests may use for models that are served; and how these take turns, in seconds."""

    aliases: Mapping[str, str] = field(default_factory=dict)
    translate_ollama: bool = setting(True)
    allow_any: bool = setting(False)
    max_wait: float = setting(0.0, least=0)
    longest_wait: float = setting(0.0, least=0)
    swap_grace: float = setting(10.0, least=0)
    sleep: bool = setting(False)


@dataclass(frozen=True, slots=True)
class ModelTable:
    """`[model."NAME"]`: one of several models; what it leaves open `[engine]` and `[engine.args]` say."""

    path: str = setting("")
    aliases: tuple[str, ...] = setting((), looks='a list of names, such as ["qwen", "gpt-4o-mini"]')
    gpus: tuple[int, ...] = setting((), least=0, looks="a list of GPUs' numbers, such as [0, 1]")
    args: Mapping[str, Any] = field(default_factory=dict)
    adapters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """`[requests]`: what a request may ask of the host. `policy` has the reasons."""

    allowed_media_domains: tuple[str, ...] = setting(
        (), each=r"[a-z0-9-]+(\.[a-z0-9-]+)*", looks='a list of names in lower case, such as ["media.example.org"]'
    )
    allow_chat_template: bool = setting(False)
    allow_media_options: bool = setting(False)
    allow_prompt_logprobs: bool = setting(False)
    max_n: int = setting(128, least=1)
    max_logprobs: int = setting(20, least=0)
    max_inputs: int = setting(2048, least=1)
    max_schema_bytes: int = setting(64 * 1024, least=0)


@dataclass(frozen=True, slots=True)
class NullSettings:
    """`[engine.null]`: the engine without a model."""

    rate: float = setting(0.0, least=0)
    load: float = setting(0.0, least=0)
    sleeps: bool = setting(False)
    engines: int = setting(1, least=1)


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """`[engine]`: what computes the answers. Durations are seconds; 0 switches off where it says so."""

    kind: str = setting("vllm", choices=("vllm", "null"))
    model: str = setting("")
    in_flight: int = setting(0, least=0)
    in_flight_bytes: int = setting(256 * MIB, least=MIB)
    preload: bool = setting(False)
    idle_unload: float = setting(0.0, least=0)
    spare_worker: bool = setting(True)
    load_timeout: float = setting(1800.0, least=1)
    stall_after: float = setting(600.0, least=1)
    stall_after_answers: float = setting(300.0, least=1)
    max_deaths: int = setting(30, least=1)
    args: Mapping[str, Any] = field(default_factory=dict)
    null: NullSettings = field(default_factory=NullSettings)

    @property
    def arguments(self) -> dict[str, Any]:
        """`args` by their names in Python; users may write them as vLLM's flags have them, with hyphens."""
        return {name.replace("-", "_"): value for name, value in self.args.items()}


@dataclass(frozen=True, slots=True)
class ResultSettings:
    """`[results]`: how often answers become durable, how often visible, and how long they stay.

    Durations are seconds; those of what is kept are texts with a unit, since nobody counts a month in seconds.
    """

    sync_every: int = setting(512, least=1)
    sync_after: float = setting(1.0, least=0)
    seal_every: int = setting(1000, least=1)
    seal_after: float = setting(30.0, least=0)
    keep_free: int = setting(256 * MIB, least=0)
    keep_input: bool = setting(True)
    keep: str = setting("0", each=_DURATION, looks='a time such as "30d", "12h" or "90m"; 0: for ever')
    keep_parts: str = setting(
        UNTIL_THE_END, each=f"{_DURATION}|{UNTIL_THE_END}", looks='"until the end", or a time after it such as "7d"'
    )
    make_room: bool = setting(False)


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """`[batches]`: who hears that one has ended."""

    ended: tuple[str, ...] = setting((), looks='a program and its arguments, such as ["/usr/bin/logger", "-s"]')


@dataclass(frozen=True, slots=True)
class DaemonSettings:
    """`[daemon]`: the process itself. Durations are seconds."""

    stop_grace: float = setting(30.0, least=0)
    log_every: int = setting(100, least=1)
    log_level: str = setting("info", choices=("debug", "info", "warning", "error"))
    gpu_every: float = setting(5.0, least=0)


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """`[alerts]`: what is alarming, and who hears of it. Durations are seconds, shares 0 to 1."""

    command: tuple[str, ...] = setting((), looks='a program and its arguments, such as ["/usr/bin/logger", "-s"]')
    batch_deadline: float = setting(0.0, least=0)
    gpu_utilization: float = setting(0.5, least=0)
    gpu_utilization_for: float = setting(300.0, least=0)
    full: float = setting(0.95, least=0)


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """`[metrics]`: where Prometheus finds the daemon's numbers; port 0 and no textfile: nowhere."""

    port: int = setting(0, least=0)
    address: str = setting("127.0.0.1")
    textfile: str = setting("")


@dataclass(frozen=True, slots=True)
class WebSettings:
    """`[web]`: the web process, who may ask it, what it keeps. Sizes are bytes; `keep_files` has a unit."""

    listen: str = setting(
        "127.0.0.1:8001",
        each=r"unix:/.+|(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):\d{1,5}",
        looks='an address and a port such as "127.0.0.1:8001" or "[::1]:8001", or "unix:" and a path',
    )
    hosts: tuple[str, ...] = setting(
        (), each=r"[a-z0-9-]+(\.[a-z0-9-]+)*", looks='a list of names in lower case, such as ["answers.example.org"]'
    )
    keys: str = setting("", each=r"(/.+)?", looks='a path such as "/etc/inbox-daemon/web-keys", or "" for no keys')
    rate: float = setting(50.0, least=0)
    max_upload_bytes: int = setting(16 * GIB, least=1024)
    max_stored_bytes: int = setting(0, least=0)
    uploads: int = setting(4, least=1)
    keep_files: str = setting("30d", each=_DURATION, looks='a time such as "30d", "12h" or "90m"; 0: for ever')
    webhook_url: str = setting("", each=r"(https?://\S+)?", looks='a URL such as "https://hooks.example.org/batches"')
    webhook_secret_file: str = setting("", each=r"(/.+)?", looks='a path, or "" where there is none')
    cache: str = setting("", each=r"(/.+)?", looks='a path such as "/var/cache/inbox-daemon-web"')
    cache_bytes: int = setting(20 * GIB, least=0)


@dataclass(frozen=True, slots=True)
class Config:
    spool: str = setting("/var/spool/inbox-daemon")
    inbox: InboxSettings = field(default_factory=InboxSettings)
    models: ModelSettings = field(default_factory=ModelSettings)
    model: Mapping[str, ModelTable] = field(default_factory=dict)
    requests: RequestSettings = field(default_factory=RequestSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    results: ResultSettings = field(default_factory=ResultSettings)
    batches: BatchSettings = field(default_factory=BatchSettings)
    daemon: DaemonSettings = field(default_factory=DaemonSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    web: WebSettings = field(default_factory=WebSettings)
