"""Where the web process listens: what systemd hands over, an address, or a path; and whether others can reach that."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

from inbox_daemon.errors import ConfigError
from inbox_daemon.spool import files
from inbox_daemon.web.whence import is_loopback

_FIRST = 3  # sd_listen_fds(3)
_UNIX = "unix:"
_BACKLOG = 1024


def handed_over(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the sockets that systemd holds for us (LISTEN_FDS), or none. Children never hear of it."""
    count, pid = environment.pop("LISTEN_FDS", "0"), environment.pop("LISTEN_PID", "")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()):
        return []
    found = [socket.socket(fileno=fd) for fd in range(_FIRST, _FIRST + int(count))]
    for each in found:
        each.set_inheritable(False)
    return found


def listening(listen: str) -> socket.socket:
    """Return a socket that listens where `web.listen` says. Raises ConfigError, with what stands in the way."""
    said = f"web.listen = {listen!r}"
    try:
        return _at_path(listen.removeprefix(_UNIX)) if listen.startswith(_UNIX) else _at_address(listen)
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{said}: cannot listen there ({why}). Name another place with --listen.") from error


def _at_address(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(_BACKLOG)
    except BaseException:
        made.close()
        raise
    return made


def _at_path(path: str) -> socket.socket:
    """A Unix socket for us and our group. One that nobody listens at any more makes room."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117)
    try:
        with suppress(ConnectionRefusedError, FileNotFoundError), socket.socket(socket.AF_UNIX) as asked:
            asked.connect(path)
            raise OSError(None, "another process listens there")
        if Path(path).is_socket():
            files.remove(Path(path))
        made.bind(path)
        made.listen(_BACKLOG)
    except BaseException:
        made.close()
        raise
    finally:
        os.umask(before)
    return made


def place(listener: socket.socket) -> str:
    """Return where a socket listens, as people write it."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"{_UNIX}{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"


def is_open_to_others(listener: socket.socket) -> bool:
    """Say whether other hosts may reach it."""
    return listener.family != socket.AF_UNIX and not is_loopback(listener.getsockname()[0])


def host_of(listener: socket.socket) -> str:
    """Return the name in a Host header that means the address that was configured; "" for a Unix socket."""
    return "" if listener.family == socket.AF_UNIX else place(listener).removeprefix("http://").rpartition(":")[0]
