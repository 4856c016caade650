"""`inbox-daemon config`: are the settings right (`check`), and which are in force and why (`show`)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from itertools import chain
from typing import Any

from inbox_daemon.cli import preflight, show
from inbox_daemon.cli.preflight import Verdict
from inbox_daemon.cli.reach import thorough
from inbox_daemon.cli.settings import found
from inbox_daemon.config import Config, Read
from inbox_daemon.errors import ConfigError
from inbox_daemon.text import toml, toml_key

_DEFAULT = "default"


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = (
        "check: try the settings as far as that goes without an engine; exit status 78 where one is wrong, 1 where "
        "something that may pass stands in the way. show: print the settings that are set, and where each is."
    )
    verb.add_argument("what", choices=("check", "show"))
    verb.add_argument("--model", metavar="PATH_OR_NAME", help="the model to serve, as `run` takes it")
    verb.add_argument("--quick", action="store_true", help="check: ask neither the network nor the GPU")
    verb.add_argument("--effective", action="store_true", help="show: defaults, too")
    verb.set_defaults(go=go)


def go(given: argparse.Namespace) -> int:
    read = found(given)
    if given.what == "show":
        for line in lines(read, everything=given.effective):
            show.say(line)
        return 0
    return _check(read, given.quick)


def _check(read: Read, quick: bool) -> int:
    files = sorted({origin for origin in read.origins.values() if origin.startswith("/")}) or ["no file"]
    show.say(f"the settings of {', '.join(files)}, tried as the user {preflight.who()}")
    asked = (preflight.spool, preflight.model, preflight.commands, preflight.numbers)
    last = preflight.arguments if quick else thorough
    worst = set()
    for finding in chain.from_iterable(look(read.settings) for look in (*asked, last)):
        worst.add(finding.verdict)
        show.say(f"{finding.verdict.value:8} {finding.sentence}")
    return ConfigError.STATUS if Verdict.WRONG in worst else 1 if Verdict.NOT_NOW in worst else 0


def lines(read: Read, *, everything: bool) -> list[str]:
    """Return settings as TOML, each with where it comes from."""
    said: list[str] = []
    for section, header, values in _sections(read.settings):
        shown = {
            dotted: f"{toml_key(dotted.removeprefix(f'{section}.'))} = {toml(value)}"
            for dotted, value in values.items()
            if everything or _origin(read.origins, dotted) != _DEFAULT
        }
        if shown and section:
            said += [*([""] if said else []), f"[{header}]"]
        width = min(60, max(map(len, shown.values()), default=0))
        said += [f"{line:{width}}  # {_origin(read.origins, dotted)}" for dotted, line in shown.items()]
    return said


def _origin(origins: Mapping[str, str], dotted: str) -> str:
    return next((said for name, said in origins.items() if f"{name}.".startswith(f"{dotted}.")), _DEFAULT)


def _sections(settings: Config) -> list[tuple[str, str, dict[str, Any]]]:
    """Return each table of the settings, its name as TOML writes it, and what is right in it, by dotted names."""
    found: list[tuple[str, str, dict[str, Any]]] = []

    def walk(section: str, header: str, values: object) -> None:
        at = len(found)
        found.append((section, header, {}))
        for name in [field.name for field in fields(values)]:  # type: ignore[arg-type]
            value, dotted = getattr(values, name), f"{section}.{name}" if section else name
            title = f"{header}.{name}" if header else name
            if is_dataclass(value):
                walk(dotted, title, value)
            elif value is settings.model:
                for one, table in value.items():
                    walk(f"model.{one}", f"model.{toml_key(one)}", table)
            elif isinstance(value, Mapping):
                found.append((dotted, title, {f"{dotted}.{key}": entry for key, entry in value.items()}))
            else:
                found[at][2][dotted] = value

    walk("", "", settings)
    return found
