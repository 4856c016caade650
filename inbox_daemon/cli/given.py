"""What is named on the command line: a file by its path, or `-` for stdin, which is kept for a while; a batch."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from inbox_daemon.errors import InboxDaemonError
from inbox_daemon.layout import SUFFIXES, Published, Spool, suffix_of
from inbox_daemon.spool import published

_STDIN = Path("-")
_BLOCK = 1 << 20


class Given(NamedTuple):
    """One file: where it lies, and what it is called wherever something is said of it."""

    path: Path
    called: Path


def folder_of(batch: str, spool: Callable[[], Spool]) -> Published:
    """Return the folder of a batch that is given by a path to its folder, or, where there is none, by its name.

    Args:
        spool: asked for where it is a name: what was copied from an outbox needs neither a spool nor settings.

    Raises:
        SpoolError: no batch can be called so.
    """
    path = Path(batch)
    return Published(path) if "/" in batch or published.is_folder(path) else spool().batch(batch)


def add(verb: argparse.ArgumentParser, name_help: str) -> None:
    verb.add_argument("files", nargs="+", type=Path, metavar="FILE", help=f"{' '.join(SUFFIXES)}; - for stdin")
    verb.add_argument("--name", metavar="NAME", help=name_help)


@contextmanager
def read(files: Sequence[Path], name: str | None, otherwise: str | None = None) -> Iterator[list[Given]]:
    """Give the files; what came on stdin is there until the end.

    Args:
        name: of what comes on stdin; where it has no suffix, that is plain text.
        otherwise: that name where none is given.

    Raises:
        InboxDaemonError: stdin has no name or is asked for twice, or something has a name and is not stdin.
    """
    asked = list(files).count(_STDIN)
    if asked > 1:
        raise InboxDaemonError("- is stdin, and can be read once")
    if name is not None and not asked:
        raise InboxDaemonError("--name is for what comes on stdin, -; a file has its own name")
    name = name or otherwise
    if asked and not name:
        raise InboxDaemonError("what comes on stdin needs a name: --name NAME")
    if not asked or name is None:
        yield [Given(path, path) for path in files]
        return
    if "/" in name or name.startswith("."):
        raise InboxDaemonError(f"--name {name!r}: the name of a batch, not a path")
    with tempfile.TemporaryDirectory(prefix="inbox-daemon-") as folder:
        kept = Path(folder) / (name if suffix_of(name) else f"{name}.jsonl")
        with kept.open("xb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file, _BLOCK)
        yield [Given(kept, Path("stdin")) if path == _STDIN else Given(path, path) for path in files]
