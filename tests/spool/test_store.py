"""Uploads on the disk: whole or not there, under an id of theirs, whatever they are called."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from inbox_daemon.errors import NoRoom, SpoolError
from inbox_daemon.layout import Spool, suffix_of
from inbox_daemon.machine import disk
from inbox_daemon.spool import folders, store
from inbox_daemon.spool.store import StoredFile

NOW = 1_800_000_000.5


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path)
    store.recover(spool)
    return spool


def put(
    spool: Spool, content: bytes = b"{}\n", filename: str = "b.jsonl", now: float = NOW, expires: int | None = None
) -> StoredFile:
    with store.begin(spool, suffix_of(filename)) as upload:
        upload.write(content)
        return upload.keep(filename, "batch", expires, "", now)


def test_an_upload_is_told_as_it_came_and_so_it_is_after_a_restart(spool: Spool) -> None:
    content = os.urandom(1 << 20)
    with store.begin(spool, ".jsonl.zst") as upload:
        for at in range(0, len(content), 60_000):
            upload.write(memoryview(content)[at : at + 60_000])
        assert store.all_of(spool) == []
        assert store.stored_bytes(spool) == upload.size == len(content)
        kept = upload.keep("b.jsonl.zst", "batch", 1_900_000_000, "team", NOW)
    digest = hashlib.sha256(content).hexdigest()
    assert kept == StoredFile(
        kept.id, len(content), digest, "b.jsonl.zst", "batch", int(NOW), 1_900_000_000, "team", ".jsonl.zst"
    )
    assert store.get(spool, kept.id) == kept
    assert store.all_of(spool) == [kept]
    assert store.content(spool, kept.id).read_bytes() == content
    store.recover(spool)
    assert store.all_of(spool) == [kept]


@pytest.mark.parametrize(
    "filename",
    [
        "../../etc/passwd",
        "/absolute.jsonl",
        "",
        ".",
        "..",
        "a\0b",
        "\udcff.jsonl",
        "x" * 300,
        "ä" * 200,
        "a\nb\u202e.gz",
    ],
)
def test_whatever_an_upload_is_called_is_told_and_is_no_part_of_a_path(filename: str, spool: Spool) -> None:
    kept = put(spool, filename=filename)
    told = store.get(spool, kept.id)
    assert told == kept
    assert told.filename == (filename.encode(errors="replace")[:255].decode(errors="ignore") or "upload")
    there = [str(path.relative_to(spool.root)) for path in spool.root.rglob("*")]
    content = f"content{suffix_of(filename)}"
    assert sorted(there) == ["files", *(f"files/{kept.id}{name}" for name in ("", f"/{content}", "/file.json"))]


def test_the_daemon_may_read_an_upload_whatever_our_umask_is(spool: Spool) -> None:
    before = os.umask(0o077)
    try:
        kept = put(spool)
    finally:
        os.umask(before)
    assert store.content(spool, kept.id).stat().st_mode & 0o777 == 0o640


def test_what_was_not_kept_leaves_nothing(spool: Spool) -> None:
    def cut_off() -> None:
        with store.begin(spool, "") as upload:
            upload.write(b"x")
            raise ConnectionError

    with pytest.raises(ConnectionError):
        cut_off()
    assert list(spool.files.iterdir()) == []


def test_recovery_removes_what_nobody_is_sending_any_more_and_nothing_else(spool: Spool) -> None:
    kept = put(spool)
    left = spool.files / ".up-0123456789abcdef"
    left.mkdir()
    (left / "content").write_bytes(b"half")
    (spool.files / f".gone-{kept.id}").mkdir()
    with store.begin(spool, "") as upload:
        store.recover(spool)
        assert not left.exists()
        upload.write(b"x")
        upload.keep("b", "batch", None, "", NOW + 1)
    assert len(store.all_of(spool)) == 2
    assert len(list(spool.files.iterdir())) == 2


def test_what_is_deleted_or_expired_is_gone_at_once_and_for_all(spool: Spool) -> None:
    first, second, third = (put(spool, now=NOW + n, expires=end) for n, end in enumerate((None, 1_900_000_000, None)))
    assert store.delete(spool, first.id)
    assert not store.delete(spool, first.id)
    assert store.get(spool, first.id) is None
    with pytest.raises(FileNotFoundError):
        store.content(spool, first.id)
    assert store.expire(spool, 1_899_999_999) == []
    assert store.expire(spool, 1_900_000_000) == [second.id]
    assert store.all_of(spool) == [third]
    assert [path.name for path in spool.files.iterdir()] == [third.id]


@pytest.mark.parametrize("id", ["..", "", "file-0123456789abcdeg", "file-0123456789ABCDEF", "file-0123456789abcdef\n"])
def test_what_is_no_id_leads_nowhere(id: str, spool: Spool) -> None:
    (spool.files / "file.json").write_bytes(b"{}")
    assert store.get(spool, id) is None
    assert not store.delete(spool, id)
    with pytest.raises(FileNotFoundError):
        store.content(spool, id)


def laid_as_the_folder(folder: Path, elsewhere: Path) -> None:
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)


def laid_as_its_record(folder: Path, elsewhere: Path) -> None:
    (folder / "file.json").rename(elsewhere)
    (folder / "file.json").symlink_to(elsewhere)


def laid_as_its_content(folder: Path, elsewhere: Path) -> None:
    (folder / "content.jsonl").rename(elsewhere)
    (folder / "content.jsonl").symlink_to(elsewhere)


@pytest.mark.parametrize("lay", [laid_as_the_folder, laid_as_its_record, laid_as_its_content])
def test_a_link_laid_among_the_uploads_is_not_followed(
    lay: Callable[[Path, Path], None], spool: Spool, tmp_path: Path
) -> None:
    kept = put(spool)
    elsewhere = tmp_path / "elsewhere"
    lay(spool.files / kept.id, elsewhere)
    for leftover in (".up-x", ".gone-x"):
        (spool.files / leftover).symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    with pytest.raises((FileNotFoundError, SpoolError)):
        store.content(spool, kept.id)
    store.recover(spool)
    store.delete(spool, kept.id)
    store.recover(spool)
    assert list(spool.files.iterdir()) == []
    assert elsewhere.exists()
    assert sorted(elsewhere.rglob("*")) == before


def test_what_must_stay_free_on_the_disk_stays_free(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 1000
    monkeypatch.setattr(disk, "lacking", lambda folder, needed: max(0, int(needed) - free))
    with pytest.raises(NoRoom, match="must become free"):
        store.begin(spool, "", keep_free=1001)
    with store.begin(spool, "", keep_free=900) as upload:
        upload.write(b"x" * 100)
        with pytest.raises(NoRoom):
            upload.write(b"x" * 101)
    assert list(spool.files.iterdir()) == []


def test_of_uploads_that_are_listed_again_only_the_new_are_read(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [put(spool, now=NOW + n) for n in range(20)]
    os.utime(spool.files, (0, 0))  # long ago
    assert store.all_of(spool) == kept
    read: list[Path] = []
    record = folders.record
    monkeypatch.setattr(folders, "record", lambda path: read.append(path) or record(path))
    looks: list[object] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looks.append(path) or scandir(path))
    assert store.all_of(spool) == kept
    assert (read, looks) == ([], [])
    new = put(spool, now=NOW + 99)
    assert store.all_of(spool) == [*kept, new]
    store.delete(spool, kept[0].id)
    assert store.all_of(spool) == [*kept[1:], new]
    assert [path.parent.name for path in read] == [new.id]


def test_what_comes_within_one_tick_of_the_clock_is_listed_all_the_same(spool: Spool) -> None:
    for number in range(50):
        kept = put(spool, now=NOW + number)
        there = spool.files.stat()
        assert kept in store.all_of(spool)
        os.utime(spool.files, ns=(there.st_atime_ns, there.st_mtime_ns))


def test_one_that_tidies_up_between_a_folders_making_and_its_locking_takes_nothing_away(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock
    tidied: list[int] = []

    def late(fd: int, operation: int) -> None:
        if not tidied:
            tidied.append(fd)
            store.recover(spool)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    assert put(spool) == store.all_of(spool)[0]


def test_uploads_from_several_threads_come_whole(spool: Spool) -> None:
    sent = [os.urandom(100_000) for _ in range(8)]
    threads = [threading.Thread(target=put, args=(spool, content)) for content in sent]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = store.all_of(spool)
    assert sorted(store.content(spool, one.id).read_bytes() for one in kept) == sorted(sent)
    assert len({replace(one, sha256="").id for one in kept}) == 8
