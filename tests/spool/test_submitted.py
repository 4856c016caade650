"""Batches made by API: accepted once, submitted once, taken back whole, found again by what their client calls them."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from passes import Passes
from running import jsonl, request
from test_store import NOW, put

from inbox_daemon.errors import NoRoom, Rejected, SpoolError
from inbox_daemon.layout import NAME_LIMIT, Spool, batch_name, is_batch_file
from inbox_daemon.machine import disk
from inbox_daemon.request import named
from inbox_daemon.spool import complete, files, store, submitted
from inbox_daemon.spool.store import StoredFile
from inbox_daemon.spool.submitted import Asked, Submitted
from inbox_daemon.weblayout import WebFolder

ASKED = Asked(
    input_file_id="file-x",
    endpoint="/v1/chat/completions",
    completion_window="24h",
    metadata={"a": "b"},
    key="team",
    fingerprint="f",
)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path)
    recover(spool)
    spool.inbox.mkdir()
    return spool


def recover(spool: Spool) -> None:
    store.recover(spool)
    submitted.recover(spool)


def create(
    spool: Spool, upload: StoredFile, idempotency: str | None = None, asked: Asked = ASKED, stem: str = "b.jsonl"
) -> Submitted:
    return submitted.create(spool, store.content(spool, upload.id), stem, asked, idempotency, NOW)


def in_inbox(spool: Spool) -> list[str]:
    return sorted(path.name for path in spool.inbox.iterdir())


def test_a_batch_goes_into_the_inbox_with_what_says_that_it_is_complete_and_no_byte_is_copied(spool: Spool) -> None:
    upload = put(spool, b"some lines\n", "b.jsonl.gz")
    batch = create(spool, upload, asked=replace(ASKED, priority=7))
    assert batch.name == f"b.{batch.id}"
    assert in_inbox(spool) == [f"{batch.name}.jsonl.gz", f"{batch.name}.jsonl.gz.sha256", f"{batch.name}.priority"]
    file = spool.inbox / batch.file
    assert file.samefile(store.content(spool, upload.id))
    assert [one.name for one in complete.vouching_for(file)] == [f"{batch.file}.sha256"]
    assert list(complete.read_to_see(file, 1 << 20)), "its hash is the one that was said"
    assert (spool.inbox / f"{batch.name}.priority").read_text() == "7\n"
    assert submitted.get(spool, batch.id) == batch
    assert submitted.all_of(spool) == [batch]
    assert (batch.metadata, batch.key, batch.created_at) == ({"a": "b"}, "team", int(NOW))
    assert submitted.phase(spool, batch) == "submitted"
    assert submitted.is_in_inbox(spool, batch)


@given(stem=st.text(max_size=300) | st.sampled_from(["x" * 200 + "@m", "@m", "a@" + "m" * 200, "\udcff"]))
def test_whatever_a_batch_is_to_be_called_its_file_is_taken_under_a_name_of_its_own(stem: str) -> None:
    id = "batch_0123456789abcdef"
    name = submitted._name(stem, id)
    assert id in name
    assert len(name.encode()) <= NAME_LIMIT
    assert "/" not in name
    assert is_batch_file(f"{name}.jsonl")
    assert batch_name(f"{name}.jsonl") == name
    assert batch_name(f"{name}.jsonl.zst") == name


def test_a_model_that_the_uploads_name_says_is_said_by_the_batchs_name(spool: Spool) -> None:
    batch = create(spool, put(spool), stem="candidates@qwen3.jsonl")
    assert batch.name == f"candidates.{batch.id}@qwen3"
    assert named.said_by(batch.file, ["qwen3"]) == "qwen3"


def test_one_creation_sent_again_is_one_batch_and_two_creations_are_two(spool: Spool) -> None:
    upload = put(spool)
    first, again = create(spool, upload, "k"), create(spool, upload, "k")
    assert again == first
    assert submitted.find(spool, "k") == first
    assert submitted.find(spool, "l") is None
    others = [create(spool, upload), create(spool, upload), create(spool, upload, "l")]
    assert {batch.id for batch in submitted.all_of(spool)} == {first.id, *(batch.id for batch in others)}
    assert len([name for name in in_inbox(spool) if name.endswith(".jsonl")]) == 4
    assert list(WebFolder(spool.web).batches.glob(".*")) == []


def test_of_creations_at_once_with_one_idempotency_key_one_is_accepted_and_all_are_told_of_it(
    spool: Spool,
) -> None:
    upload = put(spool)
    told: list[Submitted] = []
    begin = threading.Barrier(8)

    def client() -> None:
        begin.wait()
        told.append(create(spool, upload, "k"))

    threads = [threading.Thread(target=client) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 8
    assert len({batch.id for batch in told}) == len(submitted.all_of(spool)) == 1
    assert in_inbox(spool) == [told[0].file, f"{told[0].file}.sha256"]


def test_what_the_inbox_refused_stays_pending_and_is_submitted_later(spool: Spool) -> None:
    upload = put(spool)
    spool.inbox.rmdir()
    batch = create(spool, upload, "k")
    assert submitted.phase(spool, batch) == "pending"
    with pytest.raises(OSError, match="No such file"):
        submitted.recover(spool)
    store.delete(spool, upload.id)
    spool.inbox.mkdir()
    submitted.recover(spool)
    assert in_inbox(spool) == [batch.file, f"{batch.file}.sha256"]
    assert submitted.phase(spool, batch) == "submitted"


def test_a_batch_that_no_daemon_has_claimed_is_taken_back_whole_and_its_bytes_go_with_the_upload(spool: Spool) -> None:
    upload = put(spool, b"x" * 5000)
    batch = create(spool, upload, asked=replace(ASKED, priority=1))
    assert submitted.withdraw(spool, batch)
    assert submitted.withdraw(spool, batch), "twice is as once"
    assert in_inbox(spool) == []
    assert submitted.phase(spool, batch) == "withdrawn"
    assert store.content(spool, upload.id).read_bytes() == b"x" * 5000
    assert store.content(spool, upload.id).stat().st_nlink == 1
    recover(spool)
    assert in_inbox(spool) == []
    assert submitted.phase(spool, batch) == "withdrawn"


def test_a_batch_that_was_claimed_is_not_taken_back(spool: Spool) -> None:
    batch = create(spool, put(spool))
    (spool.inbox / batch.file).rename(spool.root / "claimed")
    assert not submitted.withdraw(spool, batch)
    recover(spool)
    assert submitted.phase(spool, batch) == "submitted"
    assert not submitted.is_in_inbox(spool, batch)
    assert in_inbox(spool) == [f"{batch.file}.sha256"]


def test_files_that_are_not_the_webs_own_are_copied_with_their_hash_and_are_no_links(spool: Spool) -> None:
    results = spool.root / "retry.jsonl"
    results.write_bytes(b"lines\n" * 1000)
    batch = submitted.create(spool, results, "again", ASKED, None, NOW)
    assert not (spool.inbox / batch.file).samefile(results)
    assert (spool.inbox / batch.file).read_bytes() == results.read_bytes()
    assert batch.sha256 == hashlib.sha256(results.read_bytes()).hexdigest()
    link = spool.root / "link.jsonl"
    link.symlink_to(results)
    with pytest.raises(Rejected):
        submitted.create(spool, link, "again", ASKED, None, NOW)
    with pytest.raises(Rejected):
        submitted.create(spool, spool.root / "nothing.jsonl", "again", ASKED, None, NOW)
    assert submitted.all_of(spool) == [batch]


def test_where_the_kernel_forbids_the_link_an_upload_is_copied(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As fs.protected_hardlinks does with a file of another user's."""
    upload = put(spool, b"x" * 3000)

    def link(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    batch = create(spool, upload)
    assert not (spool.inbox / batch.file).samefile(store.content(spool, upload.id))
    assert (spool.inbox / batch.file).read_bytes() == b"x" * 3000


def test_a_copy_leaves_free_what_must_stay_free(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    results = spool.root / "retry.jsonl"
    results.write_bytes(b"x" * 100)
    monkeypatch.setattr(disk, "lacking", lambda folder, needed: max(0, int(needed) - 1000))
    with pytest.raises(NoRoom):
        submitted.create(spool, results, "b", ASKED, None, NOW, keep_free=901)
    assert submitted.create(spool, results, "b", ASKED, None, NOW, keep_free=900) == submitted.all_of(spool)[0]


def test_the_last_status_that_was_seen_is_kept_of_batches_made_by_api_alone(spool: Spool) -> None:
    batch = create(spool, put(spool))
    assert submitted.seen(spool, batch.id) is None
    for id in (batch.id, "batch_0123456789abcdef", "batch_0123456789abcdef012345", "../x"):
        submitted.note_seen(spool, id, {"status": "completed"})
    assert submitted.seen(spool, batch.id) == {"status": "completed"}
    assert submitted.seen(spool, "batch_0123456789abcdef") is None
    assert submitted.seen(spool, "../x") is None
    assert submitted.all_of(spool) == [batch]


def test_a_link_laid_among_the_batches_is_not_followed(spool: Spool) -> None:
    batches = WebFolder(spool.web).batches
    batch = create(spool, put(spool))
    elsewhere = spool.root / "elsewhere"
    (batches / batch.id).rename(elsewhere)
    (batches / batch.id).symlink_to(elsewhere)
    (batches / ".new-x").symlink_to(elsewhere)
    assert submitted.all_of(spool) == []
    assert submitted.get(spool, batch.id) is None
    before = sorted(elsewhere.rglob("*"))
    recover(spool)
    assert sorted(elsewhere.rglob("*")) == before


def test_an_acceptance_that_the_disk_did_not_confirm_is_none(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = put(spool)
    sync_dir = files.sync_dir

    def failing(path: Path) -> None:
        if path.name == "batches":
            raise SpoolError("no")
        sync_dir(path)

    with monkeypatch.context() as broken:
        broken.setattr(files, "sync_dir", failing)
        with pytest.raises(SpoolError):
            create(spool, upload, "k")
    recover(spool)
    assert submitted.all_of(spool) == []
    assert in_inbox(spool) == []
    assert create(spool, upload, "k") == submitted.all_of(spool)[0]


def test_an_upload_that_is_deleted_while_its_batch_waits_or_runs_costs_it_nothing(passes: Passes) -> None:
    spool = Spool(passes.inbox.parent)
    recover(spool)
    content = jsonl([request(f"r{n}", "say") for n in range(40)])
    waiting, running = put(spool, content), put(spool, content, now=NOW + 1)
    batches = [create(spool, waiting), create(spool, running)]
    store.delete(spool, waiting.id)
    passes.until(passes.folder(batches[1].name).exists)
    store.delete(spool, running.id)
    for batch in batches:
        passes.until(passes.is_now(batch.name, "completed"))
        assert passes.status(batch.name)["request_counts"]["completed"] == 40
    assert store.all_of(spool) == []
    assert in_inbox(spool) == []


def test_an_upload_and_a_creation_have_three_syncs_each_whatever_their_size(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    for name in ("fsync", "fdatasync"):
        sync = getattr(os, name)

        def noted(fd: int, sync: Callable[[int], None] = sync) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{fd}"))  # noqa: PTH115
            synced.append(str(path.relative_to(spool.root)))
            sync(fd)

        monkeypatch.setattr(os, name, noted)
    upload = put(spool, b"x" * 5_000_000)
    assert [path.rpartition("/")[2] for path in synced] == ["content.jsonl", ".file.json.new", "files"]
    synced.clear()
    create(spool, upload)
    assert [path.rpartition("/")[2] for path in synced] == [".batch.json.new", "batches", ".sidecar.new"]


def test_a_batch_that_is_taken_back_while_it_is_being_submitted_is_taken_back_whole(spool: Spool) -> None:
    upload = put(spool)
    for _ in range(10):
        spool.inbox.rmdir()
        batch = create(spool, upload, asked=replace(ASKED, priority=1))
        spool.inbox.mkdir()
        begin, took = threading.Barrier(2), []

        def submit(batch: Submitted = batch, begin: threading.Barrier = begin) -> None:
            begin.wait()
            submitted._passage(spool, batch).submit()

        def withdraw(batch: Submitted = batch, begin: threading.Barrier = begin, took: list[bool] = took) -> None:
            begin.wait()
            took.append(submitted.withdraw(spool, batch))

        threads = [threading.Thread(target=act) for act in (submit, withdraw)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert took == [True]
        assert submitted.phase(spool, batch) == "withdrawn"
        assert in_inbox(spool) == []
