"""The settings as they are read: defaults, then a TOML file, the environment and flags; checked once, at the start.

Owns what a mistake is told as, and where each value came from. What settings there are, `sections` says. Never looks
at the spool, the GPU or vLLM.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from inbox_daemon.config import models
from inbox_daemon.config.arguments import DECIDED_ELSEWHERE
from inbox_daemon.config.sections import (
    MOST_PRIORITY,
    UNTIL_THE_END,
    AlertSettings,
    BatchSettings,
    Config,
    DaemonSettings,
    EngineSettings,
    InboxSettings,
    MetricsSettings,
    ModelSettings,
    ModelTable,
    NullSettings,
    RequestSettings,
    ResultSettings,
    WebSettings,
    seconds,
)
from inbox_daemon.errors import ConfigError, NotNow, may_pass
from inbox_daemon.text import toml_key

DEFAULT_PATH = Path("/etc/inbox-daemon/config.toml")
ENV_PREFIX = "INBOX_DAEMON_"


def load(path: Path | None, env: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """Return the settings that `read` finds. Raises as that does."""
    return read(path, env, flags).settings


@dataclasses.dataclass(frozen=True, slots=True)
class Read:
    """The settings, and whence each that is no default has its value, by its dotted name."""

    settings: Config
    origins: Mapping[str, str]


def read(path: Path | None, env: Mapping[str, str], flags: Mapping[str, Any]) -> Read:
    """Read the configuration: defaults, then the file, then the environment, then flags; the last one wins.

    Args:
        path: the TOML file; None means DEFAULT_PATH where it exists.
        env: variables such as ``INBOX_DAEMON_ENGINE__MODEL`` (two underscores between section and key).
        flags: dotted keys of what was given on the command line, e.g. ``{"engine.model": "…"}``.

    Raises:
        ConfigError: naming the source, the key, the value and what would be right.
        NotNow: the file cannot be read, and may be another time.
    """
    tree: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if path is not None or DEFAULT_PATH.exists():
        path = Path(path or DEFAULT_PATH).absolute()
        tree = _read_toml(path)
        build(tree, source=str(path))  # so that a mistake is blamed on the file, not on what overrides it
        origins = {dotted: str(path) for dotted, _ in leaves(tree)}
    overrides = [(*_of_variable(name, text), f"${name}") for name, text in env.items() if _is_ours(name)]
    overrides += [(dotted, value, "the command line") for dotted, value in flags.items()]
    for dotted, value, source in overrides:
        _put(tree, dotted, value)
        build(tree, source=source.removeprefix("$"))
        origins = {name: said for name, said in origins.items() if not f"{name}.".startswith(f"{dotted}.")}
        origins |= {name: source for name, _ in leaves({dotted: value})}
    return Read(build(tree, source="the command line"), origins)


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what a tree of settings holds, each by its dotted name; of a table each entry, and an empty one itself."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_ours(variable: str) -> bool:
    return variable.startswith(ENV_PREFIX) and variable != f"{ENV_PREFIX}CONFIG"


def _of_variable(variable: str, text: str) -> tuple[str, Any]:
    dotted = variable.removeprefix(ENV_PREFIX).lower().replace("__", ".")
    return dotted, _from_text(dotted, text, variable)


def build(tree: Mapping[str, Any], source: str) -> Config:
    """Return the checked settings of a parsed TOML tree. Raises ConfigError."""
    built = typing.cast(Config, _section(Config, tree, "", source))
    models.check(built, source)
    return built


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        if may_pass(error):
            raise NotNow(f"{path}: cannot be read now ({error.strerror}); it is tried again") from error
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Name another file with --config.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}. Compare with etc/inbox-daemon.toml.") from error


GONE = {"inbox.dedupe_window": "a re-send is never run by itself now; remove the line, or set inbox.run_resends = true"}


def _section(cls: type[Any], tree: Any, prefix: str, source: str) -> Any:
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{source}: {prefix.rstrip('.')} = {tree!r} must be a table: [{prefix.rstrip('.')}]")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in tree:
        if key not in fields:
            close = get_close_matches(key, fields, 1)
            if prefix + key in GONE:
                raise ConfigError(f"{source}: {prefix}{key} is a setting of an earlier version: {GONE[prefix + key]}")
            hint = f"did you mean {prefix}{close[0]}?" if close else f"known here: {', '.join(fields)}"
            raise ConfigError(f"{source}: unknown setting {prefix}{key} = {tree[key]!r}; {hint}")
    values: dict[str, Any] = {}
    for key, value in tree.items():
        kind = hints[key]
        if dataclasses.is_dataclass(kind):
            values[key] = _section(typing.cast(type, kind), value, f"{prefix}{key}.", source)
        elif key == "model" and cls is Config:
            values[key] = _tables(value, source)
        else:
            values[key] = _checked(fields[key], kind, value, f"{prefix}{key}", source)
    return cls(**values)


def _tables(tree: Any, source: str) -> Mapping[str, ModelTable]:
    """Return what `[model."NAME"]` says of each model."""
    if not isinstance(tree, Mapping):
        raise ConfigError(f'{source}: model = {tree!r} must be tables: [model."NAME"], one for each model')
    for name, table in tree.items():
        if not name or not isinstance(table, Mapping):
            raise ConfigError(f'{source}: model.{name} = {table!r} must be a table: [model."NAME"]')
    tables = {name: _section(ModelTable, table, f"model.{toml_key(name)}.", source) for name, table in tree.items()}
    return types.MappingProxyType(tables)


def _checked(spec: dataclasses.Field[Any], kind: Any, value: Any, dotted: str, source: str) -> Any:
    wrong = f"{source}: {dotted} = {value!r} is not right: it must be "
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    origin = typing.get_origin(kind)
    if origin is tuple:
        each, of = re.compile(spec.metadata["each"] or r"(?s).+"), typing.get_args(kind)[0]
        right = (lambda v: type(v) is int and v >= 0) if of is int else lambda v: type(v) is str and each.fullmatch(v)
        if not isinstance(value, list | tuple) or not all(map(right, value)):
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
    if kind is str and spec.metadata["each"]:
        value = str(value) if type(value) in (int, float) else value
        if not isinstance(value, str) or not re.fullmatch(spec.metadata["each"], value):
            raise ConfigError(f"{wrong}{spec.metadata['looks']}")
        return value
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


def found(path: str | None, flags: Mapping[str, Any]) -> Read:
    """Read as the command line does: ``--config``, else ``INBOX_DAEMON_CONFIG``, else the default path."""
    chosen = path or os.environ.get(f"{ENV_PREFIX}CONFIG")
    return read(Path(chosen) if chosen else None, os.environ, flags)


__all__ = [
    "DECIDED_ELSEWHERE",
    "DEFAULT_PATH",
    "MOST_PRIORITY",
    "UNTIL_THE_END",
    "AlertSettings",
    "BatchSettings",
    "Config",
    "DaemonSettings",
    "EngineSettings",
    "InboxSettings",
    "MetricsSettings",
    "ModelSettings",
    "ModelTable",
    "NullSettings",
    "Read",
    "RequestSettings",
    "ResultSettings",
    "WebSettings",
    "build",
    "found",
    "leaves",
    "load",
    "read",
    "seconds",
]
