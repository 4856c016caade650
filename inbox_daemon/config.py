"""The settings: one frozen tree, read from TOML, environment and flags, checked once at start.

Owns every setting's name, default, bounds and reason. Never looks at the spool, the GPU or vLLM.
etc/inbox-daemon.toml lists the same settings for people; a test keeps the two equal.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from inbox_daemon.errors import ConfigError

DEFAULT_PATH = Path("/etc/inbox-daemon/config.toml")
ENV_PREFIX = "INBOX_DAEMON_"

MIB, GIB = 1 << 20, 1 << 30
MOST_PRIORITY = 10**9 - 1  # nine digits, in a control file, too


def setting(
    default: Any, *, least: float | None = None, choices: tuple[str, ...] = (), each: str = "", looks: str = ""
) -> Any:
    """A setting with its default; `each` is the pattern of every text in a list, which `looks` describes."""
    return field(default=default, metadata={"least": least, "choices": choices, "each": each, "looks": looks})


@dataclass(frozen=True, slots=True)
class InboxSettings:
    """`[inbox]`: what counts as dropped. Durations are seconds."""

    settle: float = setting(2.0, least=0)
    settle_unproven: float = setting(10.0, least=0)
    rescan: float = setting(15.0, least=0.1)
    watch: str = setting("auto", choices=("auto", "poll"))
    require_sidecar: bool = setting(False)
    dedupe_window: float = setting(3600.0, least=0)
    strict: bool = setting(False)
    group_prefixes: bool = setting(True)
    share_answers: bool = setting(True)
    priorities: Mapping[str, int] = field(default_factory=dict)
    max_line_bytes: int = setting(32 * MIB, least=1024)
    max_lines: int = setting(10_000_000, least=1)
    max_file_bytes: int = setting(64 * GIB, least=1024)
    max_claimed: int = setting(256, least=1)


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """`[models]`: which model names a request may use for the model that is served."""

    aliases: Mapping[str, str] = field(default_factory=dict)
    translate_ollama: bool = setting(False)


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
    """`[results]`: how often answers become durable, and how often visible. Durations are seconds."""

    sync_every: int = setting(512, least=1)
    sync_after: float = setting(1.0, least=0)
    seal_every: int = setting(1000, least=1)
    seal_after: float = setting(30.0, least=0)
    keep_free: int = setting(256 * MIB, least=0)


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
class Config:
    spool: str = setting("/var/spool/inbox-daemon")
    inbox: InboxSettings = field(default_factory=InboxSettings)
    models: ModelSettings = field(default_factory=ModelSettings)
    requests: RequestSettings = field(default_factory=RequestSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    results: ResultSettings = field(default_factory=ResultSettings)
    daemon: DaemonSettings = field(default_factory=DaemonSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)


# vLLM's arguments that [requests] decides, so that what a request may ask of the host has one answer; and two that
# would break a promise.
DECIDED_BY_REQUESTS = {
    "allowed_media_domains": "set requests.allowed_media_domains instead",
    "allowed_local_media_path": "requests may never name files of this host; leave it out",
    "trust_request_chat_template": "set requests.allow_chat_template instead",
    "trust_request_mm_kwargs": "set requests.allow_media_options instead",
    "max_logprobs": "set requests.max_logprobs instead",
    "enable_log_requests": "it would write prompts into the journal; leave it out",
    "enable_log_outputs": "it would write answers into the journal; leave it out",
}


def load(path: Path | None, env: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """Read the configuration: defaults, then the file, then the environment, then flags; the last one wins.

    Args:
        path: the TOML file; None means DEFAULT_PATH where it exists.
        env: variables such as ``INBOX_DAEMON_ENGINE__MODEL`` (two underscores between section and key).
        flags: dotted keys of what was given on the command line, e.g. ``{"engine.model": "…"}``.

    Raises:
        ConfigError: naming the source, the key, the value and what would be right.
    """
    tree: dict[str, Any] = {}
    if path is not None or DEFAULT_PATH.exists():
        path = path or DEFAULT_PATH
        tree = _read_toml(path)
        build(tree, source=str(path))  # so that a mistake is blamed on the file, not on what overrides it
    for variable, text in env.items():
        if variable.startswith(ENV_PREFIX) and variable != f"{ENV_PREFIX}CONFIG":
            dotted = variable.removeprefix(ENV_PREFIX).lower().replace("__", ".")
            _put(tree, dotted, _from_text(dotted, text, variable))
            build(tree, source=variable)
    for dotted, value in flags.items():
        _put(tree, dotted, value)
    return build(tree, source="the command line")


def build(tree: Mapping[str, Any], source: str) -> Config:
    """Return the checked settings of a parsed TOML tree. Raises ConfigError."""
    read = typing.cast(Config, _section(Config, tree, "", source))
    for name, value in read.engine.args.items():
        if instead := DECIDED_BY_REQUESTS.get(name.replace("-", "_")):
            raise ConfigError(f"{source}: engine.args.{name} = {value!r} is not decided there: {instead}")
    return read


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Name another file with --config.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}. Compare with etc/inbox-daemon.toml.") from error


def _section(cls: type[Any], tree: Any, prefix: str, source: str) -> Any:
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{source}: {prefix.rstrip('.')} = {tree!r} must be a table: [{prefix.rstrip('.')}]")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in tree:
        if key not in fields:
            close = get_close_matches(key, fields, 1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"known here: {', '.join(fields)}"
            raise ConfigError(f"{source}: unknown setting {prefix}{key} = {tree[key]!r}; {hint}")
    values: dict[str, Any] = {}
    for key, value in tree.items():
        kind = hints[key]
        if dataclasses.is_dataclass(kind):
            values[key] = _section(typing.cast(type, kind), value, f"{prefix}{key}.", source)
        else:
            values[key] = _checked(fields[key], kind, value, f"{prefix}{key}", source)
    return cls(**values)


def _checked(spec: dataclasses.Field[Any], kind: Any, value: Any, dotted: str, source: str) -> Any:
    wrong = f"{source}: {dotted} = {value!r} is not right: it must be "
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    origin = typing.get_origin(kind)
    if origin is tuple:
        each = re.compile(spec.metadata["each"] or r"(?s).+")
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) and each.fullmatch(v) for v in value):
            raise ConfigError(f"{wrong}{spec.metadata['looks']}")
        return tuple(value)
    if origin is not None:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{wrong}a table, [{dotted}]")
        of = typing.get_args(kind)[1]
        if of in (str, int) and not all(type(v) is of for v in value.values()):
            raise ConfigError(f"{wrong}a table of {'names' if of is str else 'whole numbers'}")
        if of is int and any(abs(number) > MOST_PRIORITY for number in value.values()):
            raise ConfigError(f"{wrong}a table of whole numbers of at most nine digits")
        return types.MappingProxyType(dict(value))
    if type(value) is not kind:
        raise ConfigError(wrong + {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[kind])
    least, choices = spec.metadata["least"], spec.metadata["choices"]
    if choices and value not in choices:
        raise ConfigError(wrong + "one of " + ", ".join(choices))
    if least is not None and not value >= least:
        raise ConfigError(f"{wrong}{least:g} or more")
    return value


def _from_text(dotted: str, text: str, variable: str) -> Any:
    """Read a variable's text as the type of the setting it names."""
    cls: Any = Config
    for part in dotted.split("."):
        hints = typing.get_type_hints(cls) if dataclasses.is_dataclass(cls) else {}
        if part not in hints:
            raise ConfigError(f"{variable}={text!r}: there is no setting {dotted}; see etc/inbox-daemon.toml")
        cls = hints[part]
    if cls is str:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{variable}={text!r} is not a value as TOML writes it (for {dotted})") from error


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, key = dotted.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[key] = value


def from_environment(path: str | None, flags: Mapping[str, Any]) -> Config:
    """Load as the command line does: ``--config``, else ``INBOX_DAEMON_CONFIG``, else the default path."""
    chosen = path or os.environ.get(f"{ENV_PREFIX}CONFIG")
    return load(Path(chosen) if chosen else None, os.environ, flags)
