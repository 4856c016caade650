"""What people say of answers, and webhooks that wait: on the disk, whatever came between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import Spool
from inbox_daemon.spool import hooks, marks, submitted
from inbox_daemon.spool.hooks import Hook
from inbox_daemon.spool.marks import Mark

MARK = Mark("a", "b.batch_1", "good", "", 1.0, [{"role": "user", "content": "say"}], "said")


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path)
    submitted.recover(spool)
    return spool


def said(spool: Spool) -> list[Mark]:
    return list(marks.read(spool, "mine").values())


def test_the_last_word_on_an_answer_counts_and_may_be_taken_back(spool: Spool) -> None:
    assert said(spool) == []
    assert marks.sets(spool) == []
    other = replace(MARK, custom_id="c", mark="bad")
    for mark in (MARK, other, replace(MARK, mark="best", note="why")):
        marks.add(spool, "mine", mark)
    assert said(spool) == [other, replace(MARK, mark="best", note="why")]
    marks.add(spool, "mine", replace(MARK, mark=""))
    assert said(spool) == [other]
    marks.add(spool, "mine", replace(MARK, mark="", note="only this"))
    assert said(spool) == [other, replace(MARK, mark="", note="only this")]
    assert marks.sets(spool) == ["mine"]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_line_that_a_crash_has_cut_costs_itself_alone(cut: int, spool: Spool) -> None:
    marks.add(spool, "mine", MARK)
    path = spool.web / "marks" / "mine.jsonl"
    assert said(spool) == [MARK]
    line = path.read_bytes()
    with path.open("ab") as file:
        file.write(line[:cut])
    assert said(spool) == [MARK]
    added = replace(MARK, custom_id="next")
    marks.add(spool, "mine", added)
    assert said(spool) == [MARK, added]


def test_a_set_that_was_replaced_is_read_anew(spool: Spool) -> None:
    marks.add(spool, "mine", MARK)
    assert said(spool) == [MARK]
    (spool.web / "marks" / "mine.jsonl").unlink()
    assert said(spool) == []
    marks.add(spool, "mine", replace(MARK, mark="bad"))
    assert said(spool) == [replace(MARK, mark="bad")]


def test_a_set_that_was_begun_anew_is_read_anew_though_it_is_the_same_inode_and_longer(spool: Spool) -> None:
    """As where a set is removed: the next file that is made has its inode."""
    marks.add(spool, "mine", MARK)
    assert said(spool) == [MARK]
    others = [replace(MARK, custom_id=f"c{n}", at=2.0) for n in range(3)]
    for other in others:
        marks.add(spool, "other", other)
    (spool.web / "marks" / "mine.jsonl").write_bytes((spool.web / "marks" / "other.jsonl").read_bytes())
    assert said(spool) == others


def test_what_is_too_long_to_be_carried_is_left_out_and_the_mark_stays(spool: Spool) -> None:
    marks.add(spool, "mine", replace(MARK, answer="x" * 70_000, note="ä" * 70_000))
    [mark] = said(spool)
    assert (mark.mark, mark.messages, mark.answer) == ("good", MARK.messages, None)
    assert mark.note == "ä" * (1 << 15)


@pytest.mark.parametrize("set", ["", ".", "..", "a/b", ".hidden", "a\n", "ä", "x" * 101])
def test_a_name_that_is_none_of_a_set_leads_nowhere(set: str, spool: Spool) -> None:
    with pytest.raises(SpoolError, match="no set of marks can be called"):
        marks.add(spool, set, MARK)
    with pytest.raises(SpoolError):
        marks.read(spool, set)
    assert list((spool.web / "marks").iterdir()) == []


def test_marks_do_not_go_through_a_link(spool: Spool, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"theirs\n")
    (spool.web / "marks" / "mine.jsonl").symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic links"):
        marks.add(spool, "mine", MARK)
    with pytest.raises(OSError, match="symbolic links"):
        marks.read(spool, "mine")
    assert elsewhere.read_bytes() == b"theirs\n"


def test_a_webhook_waits_until_it_was_delivered_whatever_was_tried(spool: Spool) -> None:
    first = Hook("evt_batch_1", "batch.completed", "batch_1", 100.0, 100.0)
    second = Hook("evt_batch_2", "batch.failed", "batch_2", 101.0, 101.0)
    for hook in (second, first, first):
        hooks.put(spool, hook)
    assert hooks.due(spool, 100) == [first]
    later = hooks.put_off(spool, first, 200)
    assert later.tries == 1
    assert hooks.due(spool, 150) == [second]
    hooks.delivered(spool, second.id)
    hooks.delivered(spool, second.id)
    assert hooks.waiting(spool) == [later]
    with pytest.raises(SpoolError):
        hooks.put(spool, replace(first, id="../x"))
