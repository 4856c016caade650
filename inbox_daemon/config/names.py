"""Under which names one engine answers, by its arguments: its served names, and its adapters (LoRA). Pure.

An adapter is a model of its own to whoever asks for it, and a part of another one to whoever loads it: requests for it
have a lane of their own, which only an engine with that adapter takes from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import orjson

from inbox_daemon.config.sections import EngineSettings

ANY_NAME = "*"  # as an alias: what no other name is
_HUGGING_FACE = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_LONGEST = 200


def is_on_hugging_face(name: str) -> bool:
    """Whether it has the form of a model's name on Hugging Face, org/name, and can be no path."""
    return _HUGGING_FACE.fullmatch(name) is not None and ".." not in name and len(name) <= _LONGEST


def names(engine: EngineSettings) -> list[str]:
    """Return the served names, the first of which the answers bear; [] where the model has none."""
    given = engine.arguments.get("served_model_name") or engine.model
    return [str(name) for name in (given if isinstance(given, list) else [given]) if name]


def adapters(engine: EngineSettings) -> list[str]:
    """Return the names of the adapters in `lora_modules`, in whichever of vLLM's forms they are written."""
    return [name for one in modules(engine.arguments) if (name := _name_of(one))]


def modules(arguments: Mapping[str, Any]) -> list[Any]:
    """Return `lora_modules` as a list, each as it is written: "name=path", or a table, or that as JSON."""
    given = arguments.get("lora_modules") or []
    return given if isinstance(given, list) else [given]


def folder_of(module: Any) -> str:
    """Return where one of `modules` says that the adapter is: a folder, or a name on Hugging Face."""
    return _fields(module).get("path") or ""


def _name_of(module: Any) -> str:
    return _fields(module).get("name") or ""


def _fields(module: Any) -> dict[str, str]:
    if isinstance(module, str) and "=" in module and "," not in module:
        return dict(zip(("name", "path"), module.split("=", 1), strict=True))
    with suppress(ValueError):
        module = orjson.loads(module) if isinstance(module, str) else module
    return {key: str(value) for key, value in module.items()} if isinstance(module, dict) else {}
