"""Starting on a spool whose inbox others may write to."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import Spool
from inbox_daemon.spool import claim


def made_in_the_inbox(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the names in the inbox that a start makes or opens for writing, and that it renames to."""
    names: set[str] = set()

    def seen(function: object, at: int) -> object:
        def call(*arguments: object, **others: object) -> object:
            path = Path(os.fsdecode(arguments[at]))  # type: ignore[arg-type]
            if path.parent == spool.inbox:
                names.add(path.name)
            return function(*arguments, **others)  # type: ignore[operator]

        return call

    with monkeypatch.context() as watched:
        for name, at in (("mkdir", 0), ("rename", 1), ("link", 1), ("symlink", 1), ("open", 0)):
            watched.setattr(os, name, seen(getattr(os, name), at))
        claim.prepare(spool)
    return names


def test_no_name_that_a_start_makes_in_the_inbox_can_have_been_laid_there_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool")
    first, second = (made_in_the_inbox(spool, monkeypatch) for _ in range(2))
    assert first
    assert second
    assert not first & second, "a name that can be known beforehand"
    assert list(spool.inbox.iterdir()) == []


@pytest.mark.parametrize("laid", ["file", "folder", "link"])
def test_what_lies_in_the_inbox_under_a_name_like_the_daemons_own_stops_no_start(laid: str, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.inbox.mkdir(parents=True)
    for name in (".probe", ".probe-0123456789abcdef"):
        there = spool.inbox / name
        match laid:
            case "file":
                there.touch()
            case "folder":
                (there / "with something in it").mkdir(parents=True)
            case "link":
                there.symlink_to("/nowhere")
    before = sorted(spool.inbox.rglob("*"))
    claim.prepare(spool)
    assert sorted(spool.inbox.rglob("*")) == before


def test_what_a_killed_start_left_in_the_inbox_is_gone_after_the_next(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    claim.prepare(spool)
    for folder in (spool.inbox, spool.outbox, spool.work):
        (folder / ".probe-0123456789abcdef").mkdir()
    claim.prepare(spool)
    assert [list(folder.iterdir()) for folder in (spool.inbox, spool.outbox, spool.work)] == [[], [], []]


def test_a_file_system_without_locks_is_refused_at_the_start_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(SpoolError) as raised:
        claim.prepare(Spool(tmp_path / "spool"))
    words = (f"{tmp_path}/spool/work: it cannot be locked (No locks available)", "a local disk", "local_lock=flock")
    assert [word for word in words if word not in str(raised.value)] == []
