"""API keys: a file that names each and has only its SHA-256, so that who reads the file cannot use what it says.

A line is `SHA256  NAME` or `SHA256  NAME  all`, as sha256sum would write it; `#` begins a remark. A key is 32 random
bytes: that many cannot be guessed, so a fast hash is enough. Never keeps or logs a key itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from inbox_daemon.errors import ConfigError
from inbox_daemon.spool import files
from inbox_daemon.text import shown

NAME = re.compile(r"[A-Za-z0-9][\w.@-]{0,63}", re.ASCII)
_LINE = re.compile(r"([0-9a-f]{64})\s+(\S+)(\s+all)?")
_PREFIX = "sk-inbox-"  # people and scanners of repositories know a secret by it
_OTHERS = stat.S_IWGRP | stat.S_IRWXO
_MOST_BYTES = 1 << 20
_HEAD = b"# API keys of inbox-daemon web: the SHA-256 of each, its name, and `all` for one that sees every batch\n"
_ADD = "inbox-daemon web-key add NAME"


@dataclass(frozen=True, slots=True)
class Key:
    """One who may ask.

    Attributes:
        name: what batches, files and log lines call it.
        sum: SHA-256 of the key in hex.
        all: sees every batch and file, also those that were dropped into the inbox.
    """

    name: str
    sum: str
    all: bool = False


def sum_of(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def read(path: Path) -> Mapping[str, Key]:
    """Return the keys of a file by their sums.

    Raises:
        ConfigError: it is not there, others may read or change it, or a line of it is none.
    """
    said = f"web.keys = {str(path)!r}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            there = os.fstat(fd)
            if not stat.S_ISREG(there.st_mode):
                raise ConfigError(f"{said}: no plain file; name the one that `{_ADD}` makes")
            if there.st_mode & _OTHERS:
                raise ConfigError(
                    f"{said}: its mode is {stat.S_IMODE(there.st_mode):04o}, so others may read or change it; "
                    f"chmod 0640 {shown(str(path))}"
                )
            text = file.read(_MOST_BYTES).decode("utf-8", "replace")
    except FileNotFoundError as error:
        raise ConfigError(f"{said}: there is no such file; `{_ADD}` makes it") from error
    except OSError as error:
        raise ConfigError(f"{said}: cannot be read ({error.strerror})") from error
    return _parsed(text, said)


def _parsed(text: str, said: str) -> Mapping[str, Key]:
    keys: dict[str, Key] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line.rstrip())
        if not found or not NAME.fullmatch(found[2]):
            raise ConfigError(f"{said}: line {number} is not `SHA256  NAME` or `SHA256  NAME  all`; `{_ADD}` writes it")
        key = Key(found[2], found[1], bool(found[3]))
        if key.sum in keys or any(other.name == key.name for other in keys.values()):
            raise ConfigError(f"{said}: line {number} has a key or a name, {key.name}, for the second time; remove one")
        keys[key.sum] = key
    return keys


def add(path: Path, name: str, *, every: bool, group: int = -1) -> str:
    """Make a key and add it to the file, which is made where there is none; return the key, which is kept nowhere.

    Args:
        every: it sees every batch and file.
        group: of a new file; -1: as the system has it.

    Raises:
        ConfigError: the file is wrong, or its name is in use or none that a key can have.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"{shown(name)!r} is no name for a key: letters, digits and . _ @ -, at most 64 of them")
    with _changing(path) as known:
        if any(key.name == name for key in known.values()):
            raise ConfigError(f"{path} has a key called {name}; take another name, or revoke that one first")
        key = _PREFIX + secrets.token_urlsafe(32)
        _write(path, [*known.values(), Key(name, sum_of(key), every)], group)
    return key


def revoke(path: Path, name: str) -> bool:
    """Remove a key by its name; say whether there was one. Raises ConfigError as `read` does."""
    with _changing(path) as known:
        left = [key for key in known.values() if key.name != name]
        if len(left) < len(known):
            _write(path, left)
        return len(left) < len(known)


@contextmanager
def _changing(path: Path) -> Iterator[Mapping[str, Key]]:
    """The keys of the file, which nobody else changes meanwhile."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            f"web.keys = {str(path)!r}: its folder cannot be opened ({error.strerror}); make it"
        ) from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield read(path) if os.path.lexists(path) else {}
    finally:
        os.close(folder)


def _write(path: Path, keys: list[Key], group: int = -1) -> None:
    lines = (f"{key.sum}  {key.name}{'  all' if key.all else ''}\n".encode() for key in keys)
    files.rewrite(path, _HEAD + b"".join(lines), 0o640, group)


class Keys:
    """The keys in force: those of the file, as it is now."""

    def __init__(self, path: Path) -> None:
        """Read them. Raises ConfigError."""
        self.path = path
        self._known = read(path)
        self._state = self._look()

    def __len__(self) -> int:
        return len(self._known)

    def of(self, key: str) -> Key | None:
        return self._known.get(sum_of(key))

    def with_sum(self, sum_: str) -> Key | None:
        return self._known.get(sum_)

    def refresh(self) -> bool:
        """Take the file anew where it has changed; say whether it had. Raises ConfigError; then the old ones stay."""
        state = self._look()
        if state == self._state:
            return False
        self._state = state  # what is wrong with it is said once
        self._known = read(self.path)
        return True

    def _look(self) -> tuple[int, ...]:
        try:
            there = os.lstat(self.path)
        except OSError:
            return ()
        return there.st_ino, there.st_mtime_ns, there.st_ctime_ns, there.st_size
