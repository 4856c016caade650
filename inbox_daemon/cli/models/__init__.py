"""`inbox-daemon models`: which models are configured; whether each can be had (`check`); have it here (`pull`)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from inbox_daemon.cli.models import checking, listing, pulling
from inbox_daemon.cli.settings import settings
from inbox_daemon.config import Config
from inbox_daemon.config.models import Model, configured
from inbox_daemon.errors import InboxDaemonError
from inbox_daemon.hub.asking import parts_of
from inbox_daemon.request import named

_ABOUT = """\
Without a word: which models are configured, their names, where their files are, what they take, what their engines do.

  inbox-daemon models check                      can each be had, does this vLLM know it, is there room
  inbox-daemon models check google/gemma-3-4b-it     also of one that is not configured yet
  inbox-daemon models pull qwen --dry-run        what would be fetched, and is there room for it
  inbox-daemon models pull qwen                  fetch it; what has come whole is not fetched again

As the service's user, so that it goes where the service looks for it:

  sudo -u inbox-daemon HF_HOME=/var/cache/inbox-daemon/huggingface inbox-daemon models pull NAME

With --json each line is an object: schema, name, aliases, adapters, front, had, folder, weights_bytes,
kv_bytes_per_token, engines (their states).
"""


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = _ABOUT
    verb.formatter_class = argparse.RawDescriptionHelpFormatter
    verb.add_argument("what", nargs="?", choices=("list", "check", "pull"), default="list")
    verb.add_argument("names", nargs="*", metavar="MODEL", help="by a name that requests may use, or as vLLM takes it")
    verb.add_argument("--dry-run", action="store_true", help="pull: say what would be fetched, fetch nothing")
    verb.add_argument("--json", action="store_true", help="list: one object a line, for programs")
    verb.set_defaults(go=go)


def go(given: argparse.Namespace) -> int:
    read = settings(given)
    if given.what == "pull":
        if not given.names:
            raise InboxDaemonError("models pull: name the models to fetch; `inbox-daemon models` has those configured")
        asked = [(model.engine.model, model.engine.arguments) for model in chosen(read, given.names)]
        parts = [part for model, arguments in asked for part in parts_of(model, arguments)]
        return pulling.pull(list(dict.fromkeys(parts)), dry_run=given.dry_run)
    models = chosen(read, given.names)
    if given.what == "check":
        return checking.check(models)
    return listing.show_all([_with_all_names(read, model) for model in models], read.spool, as_json=given.json)


def _with_all_names(read: Config, model: Model) -> Model:
    """Return the model with the names that [models.aliases] gives it as well."""
    meant = {model.name, *model.served, *model.aliases}
    others = (alias for alias, means in read.models.aliases.items() if means in meant and alias not in meant)
    return replace(model, aliases=(*model.aliases, *others))


def chosen(read: Config, names: Sequence[str]) -> list[Model]:
    """Return the models of these names, all that are configured where none is given.

    A slug, by which a file's name says a model, is a name of it too. What no configured one is called is taken as vLLM
    takes it: a folder, or a name on Hugging Face.
    """
    there = [model for model in configured(read) if model.engine.model]
    if not names:
        return there
    known = {name: model for model in there for name in (*model.aliases, *model.served, model.engine.model, model.name)}
    slugs = named.slugs({name: model.name for name, model in known.items()})
    known |= {slug: known[meant] for slug, meant in slugs.items() if slug not in known}
    known |= {alias: known[meant] for alias, meant in read.models.aliases.items() if meant in known}
    return [known.get(name) or _unlisted(read, name) for name in names]


def _unlisted(read: Config, name: str) -> Model:
    return Model(name, replace(read.engine, model=name, args={}), front=False)
