"""`inbox-daemon web`: puts settings, keys, sockets and the application together. Decides nothing after that.

What it needs beyond the other verbs is imported when it is asked for, and only then.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from importlib import util
from pathlib import Path

from inbox_daemon import journal
from inbox_daemon.cli.settings import settings
from inbox_daemon.config import Config
from inbox_daemon.errors import ConfigError
from inbox_daemon.layout import Spool
from inbox_daemon.machine.notify import Notifier
from inbox_daemon.spool import published

_PACKAGES = ("fastapi", "httptools", "jinja2", "python_multipart", "regex", "starlette", "uvicorn")
_ABOUT = """\
OpenAI's Files and Batches API over the spool, for clients as they are, and a viewer of answers for browsers.

  inbox-daemon web                             http://127.0.0.1:8001, for everybody on this host
  inbox-daemon web --listen 0.0.0.0:8001       for others; needs keys (inbox-daemon web-key) and web.hosts
"""


def add(verb: argparse.ArgumentParser) -> None:
    verb.description = _ABOUT
    verb.formatter_class = argparse.RawDescriptionHelpFormatter
    verb.add_argument("--listen", metavar="ADDRESS", help="host:port or unix:PATH; default from the settings")
    verb.set_defaults(go=go)


def go(given: argparse.Namespace) -> int:
    read = settings(given)
    demand_packages()
    spool = published.there(Spool(Path(read.spool)))
    _serve(read, spool, Notifier(os.environ))
    return 0


def demand_packages() -> None:
    """Raise ConfigError where a package of the extra `web` is missing."""
    missing = [name for name in _PACKAGES if util.find_spec(name) is None]
    if missing:
        how = f"install it into {sys.prefix}: pip install '.[web]'"
        raise ConfigError(f"inbox-daemon web needs what is not installed ({', '.join(missing)}); {how}")


def _serve(read: Config, spool: Spool, notifier: Notifier) -> None:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is there: its threads would only wait
    from inbox_daemon.web import server, sockets
    from inbox_daemon.web.app import application
    from inbox_daemon.web.guard import Rules
    from inbox_daemon.web.keys import Keys
    from inbox_daemon.web.site import Site
    from inbox_daemon.web.upkeep import upkeep

    keys = Keys(Path(read.web.keys)) if read.web.keys else None
    with ExitStack() as opened:
        listeners = sockets.handed_over(os.environ) or [sockets.listening(read.web.listen)]
        for listener in listeners:
            opened.enter_context(listener)
            if keys is None and sockets.is_open_to_others(listener):
                raise ConfigError(
                    f"{sockets.place(listener)} can be reached by others, and web.keys is not set: everybody could "
                    "read every answer. Set web.keys and make a key (inbox-daemon web-key add NAME), or listen on "
                    "127.0.0.1."
                )
        hosts = frozenset((*read.web.hosts, *map(sockets.host_of, listeners)))
        app = application(Site(spool, read, cache_folder(read, os.environ)))
        journal.set_up(read.daemon.log_level)
        server.serve(app, Rules(hosts, keys, read.web.rate), listeners, notifier, lambda: upkeep(spool, time.time()))


def cache_folder(read: Config, environment: Mapping[str, str]) -> Path:
    """Return where the viewer keeps what can be made again: `web.cache`, systemd's folder for it, or the user's."""
    given = environment.get("CACHE_DIRECTORY", "").partition(":")[0]
    users = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(read.web.cache or given or users / "inbox-daemon" / "web")
