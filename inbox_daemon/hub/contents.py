"""What lies in a model's folder, of whatever origin: reads it, and decides nothing. Needs no network and no library."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from inbox_daemon.hub.answers import Had, Seen, weights

MODELS = ("config.json", "params.json")  # what describes a model: of Hugging Face, and of Mistral
ADAPTERS = ("adapter_config.json",)
DESCRIBE = MODELS + ADAPTERS
TOKENIZER = "tokenizer_config.json"
_INDEX = "model.safetensors.index.json"  # which file has which tensor
_WITH_TEMPLATE = ("chat_template.jinja", "chat_template.json", "tekken.json")  # Mistral's own tokenizer knows its form
_LICENCE = re.compile(r"\A---\n(?:.*\n)*?license: *['\"]?([\w.-]+)", re.MULTILINE)
_MOST = 16 << 20  # bytes of a file that describes


def is_path(model: str) -> bool:
    """Say whether a model is named by a path on this host, and not by a name on Hugging Face."""
    return model.startswith(("/", ".", "~")) or os.path.exists(model)  # noqa: PTH110  raises nothing


def seen(folder: Path, had: Had = Had.FOLDER) -> Seen:
    """Return what is in a model's folder, or in its one file (GGUF). Raises OSError where it may not be read."""
    if folder.is_file():
        return Seen(had, folder=str(folder), files={folder.name: folder.stat().st_size})
    files = {name: (folder / name).stat().st_size for name in os.listdir(folder) if (folder / name).is_file()}  # noqa: PTH208
    return Seen(
        had,
        ", ".join(lacking(folder)),
        str(folder),
        files=files,
        config=_read(folder / MODELS[0]),
        adapter=adapter(folder),
        template=has_template(files, folder),
        licence=_licence(folder),
    )


def lacking(folder: Path) -> list[str]:
    """Return what a model's folder needs and has not: its description, its weights; of many the first few."""
    names = {path.name: 1 for path in folder.iterdir() if path.exists()}  # a link in the cache may lead nowhere
    if not names.keys() & set(DESCRIBE):
        return [MODELS[0]]
    parts = _read(folder / _INDEX).get("weight_map") or {}
    if gone := sorted({str(part) for part in parts.values()} - names.keys()):
        return gone[:3]
    return [] if parts or weights(names) else ["its weights"]


def adapter(folder: Path) -> dict[str, Any]:
    """Return what an adapter's folder says of it; {} where it says nothing."""
    return _read(folder / ADAPTERS[0])


def has_template(files: dict[str, int], folder: Path) -> bool:
    """Say whether a model's tokenizer comes with a chat template.

    Args:
        files: all that the model has; what describes it lies in `folder`.
    """
    return any(name in files for name in _WITH_TEMPLATE) or bool(_read(folder / TOKENIZER).get("chat_template"))


def _read(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError), path.open("rb") as file:
        found = orjson.loads(file.read(_MOST))
        if isinstance(found, dict):
            return found
    return {}


def _licence(folder: Path) -> str:
    with suppress(OSError), (folder / "README.md").open(errors="replace") as file:
        if found := _LICENCE.match(file.read(_MOST).partition("\n---")[0]):
            return found[1]
    return ""
