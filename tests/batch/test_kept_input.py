"""The requests beside their answers, `input.jsonl`: when they are there, what they cost, and who may take them away."""

from __future__ import annotations

import errno
import gzip
import logging
import os
from dataclasses import replace
from typing import NoReturn

import pytest
from passes import Passes
from running import batch_of

from inbox_daemon.inbox import taking
from inbox_daemon.layout import Published, Spool
from inbox_daemon.spool import proof, remains


def receipt_of(passes: Passes, name: str) -> proof.Proof:
    passes.until((passes.folder(name) / "receipt.json").exists)
    return proof.verify(Published(passes.folder(name)))


def test_what_was_packed_lies_unpacked_beside_its_answers_under_a_second_name_and_the_receipt_proves_it(
    passes: Passes,
) -> None:
    content = b"broken\n\n" + batch_of(5)
    (passes.inbox / "b.pause").touch()
    passes.drop("b.jsonl.gz", gzip.compress(content))
    kept = Published(passes.folder("b")).input
    passes.until(kept.exists)
    [life] = passes.daemon._batches
    assert kept.samefile(life.work.input), "it takes no room of its own while the batch is in work"
    assert kept.stat().st_mode == (passes.folder("b") / "status.json").stat().st_mode
    (passes.inbox / "b.resume").touch()
    found = receipt_of(passes, "b")
    assert (found.problems, found.receipt["input"]["kept"]) == ([], "input.jsonl")
    assert kept.read_bytes() == content
    kept.write_bytes(content[:-1])
    assert "input.jsonl: sha256 is" in proof.verify(Published(passes.folder("b"))).problems[0]
    kept.unlink()
    assert proof.verify(Published(passes.folder("b"))).problems == [], "whoever may read it may do without it"


def test_what_a_user_takes_away_stays_away_and_the_batch_runs_on_after_a_restart_as_well(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "_ADOPT_EVERY", 0.0)
    (passes.inbox / "b.pause").touch()
    passes.drop("b.jsonl", batch_of(5))
    kept = Published(passes.folder("b")).input
    passes.until(lambda: kept.exists() and passes.status("b")["paused"])
    kept.unlink()
    passes.let_go()
    (passes.inbox / "b.resume").touch()
    found = receipt_of(passes, "b")
    assert (found.problems, found.receipt["answers"], found.receipt["input"]["kept"]) == ([], 5, None)
    assert not kept.exists()


def test_nothing_is_kept_where_the_setting_says_no_nor_where_a_file_has_no_second_name(
    passes: Passes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "inbox_daemon")
    settings = passes.daemon.settings
    before = settings.now
    settings.now = replace(before, results=replace(before.results, keep_input=False))
    passes.drop("private.jsonl", batch_of(2))
    assert receipt_of(passes, "private").receipt["input"]["kept"] is None

    def without_links(source: object, target: object) -> NoReturn:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    settings.now = before
    monkeypatch.setattr(os, "link", without_links)
    passes.drop("exfat.jsonl", batch_of(2, "exfat"))
    assert receipt_of(passes, "exfat").receipt["input"]["kept"] is None
    assert "exfat: its input.jsonl is not kept: the spool's file system has no hard links" in caplog.text
    assert [*passes.folder("exfat").parent.glob("*/input.jsonl")] == []


def test_a_file_that_is_no_batch_comes_back_as_it_was_dropped_though_it_is_called_input(passes: Passes) -> None:
    passes.drop("input.jsonl", b"[\n{}\n]\n")
    found = receipt_of(passes, "input")
    assert (found.problems, found.receipt["status"], found.receipt["input"]["kept"]) == ([], "failed", None)
    assert (passes.folder("input") / "input.jsonl").read_bytes() == b"[\n{}\n]\n"


def test_it_goes_with_its_folder(passes: Passes) -> None:
    passes.drop("b.jsonl", batch_of(2))
    receipt_of(passes, "b")
    spool = Spool(passes.inbox.parent)
    passes.until(lambda: not list(spool.work.iterdir()))
    what = remains.ended(spool, "b")
    assert what is not None
    list(remains.remove(spool, what))
    assert not passes.folder("b").exists()
