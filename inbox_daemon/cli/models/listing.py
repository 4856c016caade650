"""`inbox-daemon models`: a line a model, of what this host has and what daemons say. Asks no network."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inbox_daemon.cli import show
from inbox_daemon.cli.table import Column, Fitting
from inbox_daemon.config.models import Model
from inbox_daemon.hub import answers
from inbox_daemon.hub.answers import Had, Seen
from inbox_daemon.hub.asking import Asked, look
from inbox_daemon.layout import Spool
from inbox_daemon.spool import published, views
from inbox_daemon.spool.shapes import SCHEMA, DaemonView, EngineView
from inbox_daemon.text import dumps, shown

_WHERE = {Had.NOT_HERE: "not here", Had.NO_LIBRARY: "?", Had.NOT_FOUND: "no such name"}


def show_all(models: Sequence[Model], spool: str, *, as_json: bool) -> int:
    daemons = [one for one in published.daemons(Spool(Path(spool))) if one["alive"]]
    found = [(model, seen_of(model), engines_of(model, daemons)) for model in models]
    if as_json:
        for one in found:
            sys.stdout.buffer.write(dumps(_object(*one)) + b"\n")
        return 0
    if not found:
        show.say("no model is configured: name one in the settings, [engine] model = …")
        return 0
    show.console.print(_drawn(found))
    for model, seen, _ in found:
        if not seen.good:
            show.say(seen.sentence(model.engine.model))
        elif seen.why:
            show.say(f"{seen.folder}: {seen.why} is lacking")
    return 0


def seen_of(model: Model) -> Seen:
    """Return what is on this host of a model."""
    try:
        return look([Asked(model.engine.model, model.engine.arguments.get("revision"))], network=False)[0]
    except OSError as error:
        return Seen(Had.NOT_HERE, error.strerror or "")


def engines_of(model: Model, daemons: Sequence[DaemonView]) -> list[EngineView]:
    """Return what is said of the engines of a model."""
    names = {model.name, *model.served}
    return [engine for daemon in daemons for engine in views.engines_of(daemon) if engine["model"] in names]


def _aliases(model: Model) -> list[str]:
    return [*model.aliases, *(name for name in model.served if name != model.name)]


def _kv_bytes(model: Model, seen: Seen) -> int | None:
    return answers.kv_bytes(seen.config, model.engine.arguments)


def _object(model: Model, seen: Seen, engines: Sequence[EngineView]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "name": model.name,
        "aliases": _aliases(model),
        "adapters": model.adapters,
        "front": model.front,
        "had": seen.had.value,
        "folder": seen.folder or None,
        "weights_bytes": seen.weights,
        "kv_bytes_per_token": _kv_bytes(model, seen),
        "engines": [engine["state"] for engine in engines],
    }


def _drawn(found: Sequence[tuple[Model, Seen, list[EngineView]]]) -> Fitting:
    def names(model: Model) -> str:
        return ", ".join([*_aliases(model), *model.adapters])

    kv = [_kv_bytes(model, seen) for model, seen, _ in found]
    return Fitting(
        [
            Column("model", [shown(model.name) for model, _, _ in found], folds=True),
            Column("also called", [shown(names(model)) for model, _, _ in found], gives_way=2, folds=True),
            Column("engines", [show.states(engines) for _, _, engines in found]),
            Column("weights", [show.size(seen.weights) if seen.weights else "" for _, seen, _ in found], right=True),
            Column("KV a token", [show.size(size) if size else "" for size in kv], right=True, gives_way=1),
            Column("files", [shown(_WHERE.get(seen.had) or seen.folder) for _, seen, _ in found], gives_way=3),
        ]
    )
