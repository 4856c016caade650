"""Which kinds of engine there are, and starting one: another kind is another file here, and a line in `engine_of`."""

from __future__ import annotations

from pathlib import Path

from inbox_daemon.config import Config
from inbox_daemon.config.models import Model, sleeping
from inbox_daemon.engine import Engine, Place
from inbox_daemon.engine.local import LocalEngine
from inbox_daemon.engine.null import NullEngine
from inbox_daemon.engine.workers import Workers
from inbox_daemon.request import policy


def engine_of(read: Config, workers: Workers, model: Model, number: int, place: Place | None = None) -> Engine:
    """Start an engine of a model. Raises OSError where the host has no room for it.

    Args:
        number: tells it from others of this process, in the log.
        place: where it lives; None: it is the first, and finds out how many there are to be.
    """
    if not model.listed and Path(model.engine.model).exists():
        raise OSError(f"{model.name} is a folder here, and requests may name no folder")
    if model.engine.kind == "null":
        return NullEngine(model.engine, place)
    return LocalEngine(workers, model, policy.for_vllm(read.requests), number, place, sleeps=sleeping(read))
