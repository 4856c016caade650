"""`inbox-daemon web-key`: API keys of the web process: `add NAME`, `list`, `revoke NAME`."""

from __future__ import annotations

import argparse
import os
import pwd
from contextlib import suppress
from pathlib import Path

from inbox_daemon.cli import show
from inbox_daemon.cli.exits import NOT_FOUND, USAGE
from inbox_daemon.cli.settings import settings
from inbox_daemon.errors import ConfigError
from inbox_daemon.web import keys

_ABOUT = """\
API keys for `inbox-daemon web`, in the file that `web.keys` names. It has only the SHA-256 of each: a key is
shown once, when it is made. It sees the files and batches that it made; --all: every batch, dropped ones too.

  inbox-daemon web-key add laptop        make one, and print it
  inbox-daemon web-key list
  inbox-daemon web-key revoke laptop     takes effect within a second
"""
_USER = "inbox-web"  # of the service, who must be able to read the file


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = _ABOUT
    verb.formatter_class = argparse.RawDescriptionHelpFormatter
    verb.add_argument("what", choices=("add", "list", "revoke"))
    verb.add_argument("key", nargs="?", metavar="KEY_NAME", help="add, revoke: what the key is called")
    verb.add_argument("--all", action="store_true", help="add: it sees every batch and file, whoever made it")
    verb.set_defaults(go=go)


def go(given: argparse.Namespace) -> int:
    read = settings(given)
    if not read.web.keys:
        raise ConfigError(
            "web.keys is not set: nobody needs a key. Set it to the file that is to hold them, "
            'such as "/etc/inbox-daemon/web-keys".'
        )
    path = Path(read.web.keys)
    if given.what == "list":
        for key in sorted(keys.read(path).values(), key=lambda key: key.name):
            show.say(f"{key.name}  all" if key.all else key.name)
        return 0
    if not given.key:
        show.say(f"inbox-daemon: web-key {given.what} needs the name of a key", show.errors)
        return USAGE
    if given.what == "add":
        print(keys.add(path, given.key, every=given.all, group=_group()))
        show.say(f"{given.key}: this is the key; nothing shows it again", show.errors)
        return 0
    if not keys.revoke(path, given.key):
        show.say(f"inbox-daemon: {path} has no key called {given.key}", show.errors)
        return NOT_FOUND
    show.say(f"{given.key}: revoked")
    return 0


def _group() -> int:
    """The group of the service's user, for a file that root makes; -1 where there is none, or we are not root."""
    with suppress(KeyError):
        return pwd.getpwnam(_USER).pw_gid if os.geteuid() == 0 else -1
    return -1
