"""One pass over a file with lines of megabytes: in steps that nobody waits for, and reading nothing over and over."""

from __future__ import annotations

import gzip
import os
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from running import batch_of, jsonl, request

from inbox_daemon.config import Config, InboxSettings
from inbox_daemon.errors import Rejected
from inbox_daemon.layout import Work
from inbox_daemon.request.line import read_line
from inbox_daemon.request.reading import rules_of
from inbox_daemon.spool import complete, files, ingest

LONG = 1_000_000


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes that each pread gave, from now on."""
    sizes: list[int] = []
    pread = os.pread

    def counted(fd: int, size: int, offset: int) -> bytes:
        data = pread(fd, size, offset)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(os, "pread", counted)
    return sizes


def steps_of(folder: Path, content: bytes, **settings: bool) -> tuple[int, Work]:
    """Take in a file; return in how many steps, and where."""
    work = Work(folder / "batch_0123456789ab0123456789")
    work.dropped.mkdir(parents=True)
    (work.dropped / "x.jsonl").write_bytes(content)
    rules = rules_of(replace(Config(), inbox=replace(InboxSettings(), **settings)))
    with files.Writer(work.open_part, fresh=True) as part:
        return sum(1 for _ in ingest.ingest(work, rules, part)), work


def test_a_line_is_read_once_and_nothing_behind_it(tmp_path: Path, read: list[int]) -> None:
    long = jsonl([request("long", "x" * LONG)])
    _, work = steps_of(tmp_path, long + long.replace(b'"long"', b'"also"') + batch_of(1), group_prefixes=False)
    source = ingest.Input(work)
    read.clear()
    assert [source.line(place) for place in range(3)] == [
        *(long.rstrip(), long.replace(b'"long"', b'"also"').rstrip(), batch_of(1).rstrip()),
    ]
    assert sum(read) == 2 * len(long) + len(batch_of(1))
    source.close()


def test_blank_lines_behind_a_request_are_no_part_of_it(tmp_path: Path) -> None:
    _, work = steps_of(tmp_path, batch_of(1) + b"\r\n" * 5000 + batch_of(1, "q").rstrip())
    source = ingest.Input(work)
    assert [source.line(0), source.line(1)] == [batch_of(1).rstrip(), batch_of(1, "q").rstrip()]
    source.close()


def test_a_custom_id_repeated_any_number_of_times_costs_its_first_line_one_more_reading(
    tmp_path: Path, read: list[int]
) -> None:
    content = jsonl([request("same", "x" * LONG)] + [request("same", f"say {i}") for i in range(50)])
    _, work = steps_of(tmp_path, content, group_prefixes=False)
    assert ingest.load(work).faults == 50
    assert sum(read) < 2 * LONG


def test_the_copy_of_a_long_file_is_flushed_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_AT_ONCE", 2 << 20)
    flushed = [0]
    fdatasync = os.fdatasync

    def at_most(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink().name == "input.jsonl":
            flushed.append(os.fstat(fd).st_size)
        fdatasync(fd)

    monkeypatch.setattr(os, "fdatasync", at_most)
    _, work = steps_of(tmp_path, jsonl([request(f"r{i}", "x" * LONG) for i in range(6)]))
    assert flushed[-1] == work.input.stat().st_size
    assert all(after - before < 4 << 20 for before, after in pairwise(flushed))


def test_lines_that_take_long_to_check_are_checked_one_in_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, _ = steps_of(tmp_path / "few", batch_of(60), group_prefixes=False)
    monkeypatch.setattr(ingest, "_TURN", 0.0)
    many, _ = steps_of(tmp_path / "many", batch_of(60), group_prefixes=False)
    assert few < 60 < many


FOREIGN = {
    "gzip": (gzip.compress(batch_of(3)), "is gzip: name it NAME.jsonl.gz"),
    "zip": (b"PK\x03\x04and so on", "is a zip archive: unpack it"),
    "utf-16": (batch_of(3).decode().encode("utf-16"), "is UTF-16: save it as UTF-8"),
    "array": (
        b'[\n  {"custom_id": "a"},\n  {}\n]',
        re.escape("is one JSON array: `jq -c '.[]'` writes each of its objects on a line"),
    ),
}


@pytest.mark.parametrize(("content", "why"), FOREIGN.values(), ids=FOREIGN)
def test_a_file_of_another_kind_is_refused_as_what_it_is_and_waits_for_no_end(
    tmp_path: Path, content: bytes, why: str
) -> None:
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(Rejected, match=f"x.jsonl: {why}"):
        list(complete.read_to_see(tmp_path / "x.jsonl", 1 << 20))
    with pytest.raises(Rejected, match=f"x.jsonl: {why}"):
        steps_of(tmp_path, content)


def test_a_bad_first_line_of_a_batch_costs_that_line(tmp_path: Path) -> None:
    for at, line in enumerate((b"[1, 2]", b"PK", b"\x00\x01")):
        _, work = steps_of(tmp_path / str(at), line + b"\n" + batch_of(3))
        assert (ingest.load(work).requests, ingest.load(work).faults) == (4, 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"custom_id": "café"}'.encode("latin-1"), "byte 19 of the line, 0xe9, is not UTF-8: save the file as UTF-8"),
        (b'{"custom_id": nobody}', "the line is not JSON: invalid literal, expected 'null', at column 15"),
    ],
)
def test_a_line_that_is_not_json_is_told_where(line: bytes, message: str) -> None:
    fault = read_line(line, lambda model: None, lambda url, body: None).fault
    assert fault is not None and fault.message == message
