"""Uploads that come in parts: whole in the client's order, whatever came beside what; gone when their time is over."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
from test_store import NOW

from inbox_daemon.errors import NoRoom, NotNow, Rejected
from inbox_daemon.layout import Spool
from inbox_daemon.machine import disk
from inbox_daemon.spool import joined, parted, store
from inbox_daemon.spool.parted import Begun, Part
from inbox_daemon.weblayout import InParts

CONTENT = bytes(range(256)) * 12
PIECES = (CONTENT[:1000], CONTENT[1000:1024], CONTENT[1024:])


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path)
    store.recover(spool)
    return spool


def begin(spool: Spool, filename: str = "b.jsonl.gz", size: int = len(CONTENT)) -> Begun:
    return parted.begin_parts(spool, filename, size, "batch", "application/gzip", "team", NOW)


def send(spool: Spool, begun: Begun, content: bytes) -> Part:
    with parted.append(spool, begun.id) as coming:
        coming.write(content)
        return coming.keep(NOW)


def content_of(spool: Spool, id: str) -> bytes:
    return store.content(spool, id).read_bytes()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def test_parts_in_order_become_a_file_like_any_other_and_no_byte_is_copied(spool: Spool) -> None:
    begun = begin(spool)
    parts = [send(spool, begun, piece) for piece in PIECES]
    inode = InParts(spool.files / begun.id).content.stat().st_ino
    assert parted.get(spool, begun.id) == begun
    file = joined.complete(spool, begun.id, [part.id for part in parts], md5(CONTENT).upper(), NOW + 9, expires_at=7)
    assert (file.id, file.filename, file.key) == (begun.file_id, "b.jsonl.gz", "team")
    assert (file.bytes, file.created_at, file.expires_at) == (len(CONTENT), int(NOW) + 9, 7)
    assert file.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert store.content(spool, file.id).stat().st_ino == inode
    assert content_of(spool, file.id) == CONTENT
    assert store.all_of(spool) == [file]
    assert parted.get(spool, begun.id) is None
    assert [path.name for path in spool.files.iterdir()] == [file.id]
    assert joined.complete(spool, begun.id, [], None, NOW + 10) == file, "completed twice it is one file"
    with pytest.raises(FileNotFoundError):
        parted.append(spool, begun.id)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_clients_order_counts_and_not_that_in_which_parts_came(order: Sequence[int], spool: Spool) -> None:
    begun = begin(spool)
    parts = [send(spool, begun, piece) for piece in PIECES]
    whole = b"".join(PIECES[at] for at in order)
    file = joined.complete(spool, begun.id, [parts[at].id for at in order], md5(whole), NOW)
    assert content_of(spool, file.id) == whole
    assert file.sha256 == hashlib.sha256(whole).hexdigest()


def test_parts_that_come_at_once_are_all_taken(spool: Spool) -> None:
    begun = begin(spool)
    with parted.append(spool, begun.id) as first, parted.append(spool, begun.id) as second:
        first.write(PIECES[0][:10])
        second.write(PIECES[1])
        first.write(PIECES[0][10:])
        with pytest.raises(NotNow, match="still being sent"):
            joined.complete(spool, begun.id, [], None, NOW)
        ids = [first.keep(NOW).id, second.keep(NOW).id]
    ids.append(send(spool, begun, PIECES[2]).id)
    assert content_of(spool, joined.complete(spool, begun.id, ids, md5(CONTENT), NOW).id) == CONTENT
    assert len(list(spool.files.iterdir())) == 1


def test_a_part_that_was_cut_off_counts_for_nothing_and_may_be_sent_again(spool: Spool) -> None:
    begun = begin(spool)
    first = send(spool, begun, PIECES[0])
    with parted.append(spool, begun.id) as coming:
        coming.write(b"half of it")
    again = send(spool, begun, CONTENT[1000:])
    assert again.offset == 1000
    assert content_of(spool, joined.complete(spool, begun.id, [first.id, again.id], None, NOW).id) == CONTENT


def test_what_is_not_what_was_said_is_refused_and_may_be_completed_rightly(spool: Spool) -> None:
    begun = begin(spool)
    parts = [send(spool, begun, piece).id for piece in PIECES]
    for wrong, hash, code in (
        (parts[:2], None, "wrong_size"),
        ([*parts, parts[0]], None, "no_such_part"),
        ([*parts, "part_0123456789abcdef"], None, "no_such_part"),
        (["../../x"], None, "no_such_part"),
        (parts, md5(b""), "wrong_md5"),
        (parts[::-1], md5(CONTENT), "wrong_md5"),
    ):
        with pytest.raises(Rejected) as refused:
            joined.complete(spool, begun.id, wrong, hash, NOW)
        assert refused.value.code == code
        assert store.all_of(spool) == []
    with parted.append(spool, begun.id) as coming, pytest.raises(Rejected, match="more than the"):
        coming.write(b"x" * (len(CONTENT) + 1))
    assert content_of(spool, joined.complete(spool, begun.id, parts, md5(CONTENT), NOW).id) == CONTENT


def test_what_is_cancelled_or_whose_time_is_over_is_gone_with_all_its_parts(spool: Spool) -> None:
    first, second = begin(spool), begin(spool)
    for begun in (first, second):
        send(spool, begun, PIECES[0])
    assert store.stored_bytes(spool) > 2 * len(PIECES[0])
    with parted.append(spool, first.id) as coming:
        coming.write(b"x")
        assert parted.cancel(spool, first.id) == first
        with pytest.raises(FileNotFoundError):
            coming.keep(NOW)
    assert parted.cancel(spool, first.id) is None
    assert parted.expire(spool, NOW + parted.LASTS - 1) == []
    assert parted.expire(spool, NOW + parted.LASTS) == [second.id]
    assert list(spool.files.iterdir()) == []


@pytest.mark.parametrize(
    "id", ["", "..", "upload_0123456789abcdef", "upload_0123456789ABCDEF", "file-0123456789abcdef"]
)
def test_what_is_no_upload_in_parts_leads_nowhere(id: str, spool: Spool) -> None:
    assert parted.get(spool, id) is None
    assert parted.cancel(spool, id) is None
    for act in (lambda: parted.append(spool, id), lambda: joined.complete(spool, id, [], None, NOW)):
        with pytest.raises(FileNotFoundError):
            act()
    assert list(spool.files.iterdir()) == []


def test_parts_in_another_order_need_room_for_one_copy_and_no_more(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = begin(spool)
    parts = [send(spool, begun, piece) for piece in PIECES]
    ids = [part.id for part in (parts[1], parts[0], parts[2])]
    room = len(CONTENT)
    monkeypatch.setattr(disk, "lacking", lambda folder, needed: max(0, int(needed) - room))
    with pytest.raises(NoRoom):
        joined.complete(spool, begun.id, ids, None, NOW, keep_free=1)
    assert joined.complete(spool, begun.id, ids, None, NOW).bytes == len(CONTENT)
    assert content_of(spool, begun.file_id) == PIECES[1] + PIECES[0] + PIECES[2]


def test_parts_leave_free_what_must_stay_free(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "lacking", lambda folder, needed: max(0, int(needed) - 1000))
    with pytest.raises(NoRoom):
        parted.begin_parts(spool, "b", 901, "batch", "", "", NOW, keep_free=100)
    begun = parted.begin_parts(spool, "b", 900, "batch", "", "", NOW, keep_free=100)
    with parted.append(spool, begun.id, keep_free=600) as coming, pytest.raises(NoRoom):
        coming.write(b"x" * 401)
