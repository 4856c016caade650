"""Which model a file's own name says: all requests of NAME@MODEL.jsonl are answered by MODEL. Pure.

A file's name cannot carry every model's, so each has a slug: what follows the last slash of its name, with anything but
letters, digits, dots, hyphens and underscores as a hyphen. Where two would have the same one, it is the whole name with
two hyphens for the slash.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from difflib import get_close_matches

from inbox_daemon.layout import NAME_LIMIT, batch_name, suffix_of

AT = "@"


def slugs(meant: Mapping[str, str]) -> dict[str, str]:
    """Return what each slug means.

    Args:
        meant: by each name under which requests may ask for a model, which model that is.
    """
    short: dict[str, set[str]] = {}
    found: dict[str, str] = {}
    for name, model in meant.items():
        last, whole = _written(name)
        short.setdefault(last, set()).add(model)
        found[whole] = model
    return found | {slug: models.pop() for slug, models in short.items() if len(models) == 1 and slug}


def slug_of(name: str, meant: Mapping[str, str]) -> str | None:
    """Return the slug by which a file's name can say a model, by one of its names or by a slug; None: there is none."""
    known = slugs(meant)
    if name in known and name not in meant:
        return name
    model = meant.get(name)
    return next((slug for slug in _written(name) if slug and model is not None and known.get(slug) == model), None)


def said_by(filename: str, known: Container[str]) -> str | None:
    """Return the slug that a file's name has after its last "@", if it is one of those known; else None.

    A second file of one name gets a number before its suffix, as `submit` gives it: NAME@MODEL.2.jsonl is of MODEL.
    """
    return next((slug for slug in _after(filename) if slug in known), None)


def saying(filename: str, slug: str) -> str:
    """Return the name of a file that is the same but for saying which model answers; it is cut where it is too long."""
    stem = batch_name(filename).encode()[: NAME_LIMIT - len(AT) - len(slug)].decode(errors="ignore")
    return f"{stem}{AT}{slug}{suffix_of(filename)}"


def doubt(filename: str, known: Iterable[str]) -> str | None:
    """Return what to say of a file whose name may be meant to say a model, and does not; None where all is well."""
    known, after = list(known), _after(filename)
    if not after or not known or said_by(filename, known):
        return None
    close = [match for slug in after for match in get_close_matches(slug, known, n=1)]
    if not close:
        return None
    return (
        f"{after[0]!r}, after the {AT} of the file's name, is no model here; close to it: {close[0]}. "
        "What answers is what each request names"
    )


def _after(filename: str) -> list[str]:
    _, at, slug = filename.removesuffix(suffix_of(filename)).rpartition(AT)
    return list(dict.fromkeys((slug, re.sub(r"\.\d+$", "", slug)))) if at and slug else []


def _written(name: str) -> tuple[str, str]:
    """Return the slugs that a name may have: of what follows its last slash, and of all of it."""
    last, whole = (
        re.sub(r"[^A-Za-z0-9._-]+", "-", part) for part in (name.rpartition("/")[2], name.strip("/").replace("/", "--"))
    )
    return last, whole
