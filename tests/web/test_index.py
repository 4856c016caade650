"""What is kept of answers in the cache folder: made of whatever lines there are, and made again where it is no good."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import answered
import numpy as np
import orjson
import pytest
from answered import ids, opened
from outboxes import asked, chat, told

from inbox_daemon.compare.answers import Form
from inbox_daemon.layout import Published
from inbox_daemon.records import Fault
from inbox_daemon.request.output import answer_line, error_line
from inbox_daemon.web import cache, rows, segments
from inbox_daemon.web.cache import Cache, Segment, Source
from inbox_daemon.web.cells import State
from inbox_daemon.web.filters import Show
from inbox_daemon.web.rows import Comparison, Filter, Order
from inbox_daemon.web.segments import CUT_OFF, ERROR, NO_TEXT
from inbox_daemon.web.site import Site
from inbox_daemon.web.wrong import Wrong


def line(place: int, custom_id: Any, body: Mapping[str, Any]) -> bytes:
    return answer_line(f"batch_req_1_{place}", custom_id, orjson.dumps(body))


def failed(place: int, custom_id: str | None, why: str = "too long") -> bytes:
    return error_line(f"batch_req_1_{place}", Fault("bad", why, None, custom_id), place + 1, 400)


def batch(site: Site, name: str, results: bytes, errors: bytes = b"", status: str = "completed") -> Published:
    """A batch of these lines."""
    published = Published(site.spool.outbox / name)
    published.dir.mkdir(parents=True)
    published.results.write_bytes(results)
    published.errors.write_bytes(errors)
    return told(published, status)


def test_a_record_has_what_the_line_says(tmp_path: Path) -> None:
    cut = chat('{"label": "ye', tokens=9, finish="length")
    embedding = {"data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 3}}
    score = {"data": [{"score": 0.75}], "usage": {"prompt_tokens": 4}}
    lines = [
        line(0, "a", chat('```json\n{"Label": "YES", "n": 1.0}\n```')),
        line(1, "b", cut),
        line(2, "c", embedding),
        line(3, "d", score),
        failed(4, "e"),
        b"\n",
        b'{"no": "line of ours"}\n',
        line(7, "g", chat("Ünïcode ALSO")),
    ]
    found = answered.segment(tmp_path, b"".join(lines))
    assert (found.meta["lines"], found.meta["unreadable"]) == (8, 1)
    assert found.rows["place"].tolist() == [0, 1, 2, 3, 4, 7]
    assert found.rows["flags"].tolist() == [0, CUT_OFF, NO_TEXT, NO_TEXT, ERROR, 0]
    assert found.rows["form"].tolist() == [Form.FENCED, Form.BROKEN, *[Form.TEXT] * 4]
    assert found.rows["output_tokens"].tolist() == [7, 9, 0, 0, 0, 7]
    assert found.rows["input_tokens"].tolist() == [11, 11, 3, 4, 0, 11]
    starts = np.cumsum([0, *map(len, lines)])[[0, 1, 2, 3, 4, 7]]
    assert found.rows["offset"].tolist() == starts.tolist()
    assert found.rows["length"].tolist() == [len(lines[n]) for n in (0, 1, 2, 3, 4, 7)]
    assert found.texts(range(6), 100)[1:] == ['{"label": "ye', "", "", "bad: too long", "ünïcode also"]
    assert [(each["name"], each["count"], each["numbers"]) for each in found.meta["fields"]] == [
        ("Label", 1, 0),
        ("n", 1, 1),
        ("", 2, 0),  # what is no object and short is a label as a whole
        ("score", 1, 1),
    ]
    assert [value["number"] for value in found.values()][1:] == [1.0, 0.75]


HOSTILE = (
    '{"": 1, "__proto__": "x", "<script>": "y", "\\u0000": "z", "a\\nb": "q", "\\ud83d\\ude00": 1}',
    '{"label": {"label": {"label": "deep"}}, "A:B=C&D": "100%"}',
    '{"label": 1e308, "n": -0.0, "big": 123456789012345678901234567890}',
    '{"' + "k" * 5_000 + '": "v"}',
    "{" + ", ".join(f'"field {n}": {n}' for n in range(200)) + "}",
    "[" * 900 + "]" * 900,
    '{"label": "\\u202egnp.exe"}',
    "null",
    '"just a string"',
    "",
    "\0\0",
)


def test_hostile_json_is_text_like_any_other_and_its_keys_are_names_of_fields(tmp_path: Path) -> None:
    site = answered.site(tmp_path)
    batch(site, "a", b"".join(line(n, f"c{n}", chat(text)) for n, text in enumerate(HOSTILE)))
    found = opened(site, "a")
    assert (found.total, len(ids(found, ""))) == (len(HOSTILE), len(HOSTILE))
    assert [field.name for field in found.fields].count("") == 1
    assert len(found.fields) == 1 + segments.MOST_FIELDS, "the whole answer stands there as well"
    for field in found.fields:
        page = found.rows(Filter(by=field.name, show=frozenset({Show.DIFFER})), Order.APART)
        assert page.found == 0
        assert found.header(field.name).sides[0].answers == len(HOSTILE)
    shown = {row.custom_id: row.cells[0] for row in found.rows(Filter()).rows}
    assert [shown[f"c{n}"].text for n in range(len(HOSTILE))] == [text[:2_000] for text in HOSTILE]
    assert ids(found, "is=A:A%253AB%253DC%2526D:100%2525") == ["c1"]
    assert ids(found, "is=A:%253Cscript%253E:Y") == ["c0"]
    assert ids(found, "q=\ufb01eld") == [] and ids(found, "q=just a string") == ["c8"]


def test_lines_without_a_custom_id_of_their_own_have_rows_and_displace_nobody(tmp_path: Path) -> None:
    site = answered.site(tmp_path)
    answers = line(0, "a", chat("one")) + line(3, "b", chat("two"))
    batch(site, "x", answers, failed(1, "a", "duplicate") + failed(2, None, "no JSON"))
    batch(site, "y", line(0, "a", chat("one")), failed(2, None, "no JSON"))
    found = opened(site, "x", "y")
    said = [(row.custom_id, *((cell.state, cell.text) for cell in row.cells)) for row in found.rows(Filter()).rows]
    missing = (State.MISSING, "")
    assert said == [
        ("a", (State.ANSWER, "one"), (State.ANSWER, "one")),
        ("a", (State.ERROR, "bad: duplicate"), missing),
        ("", (State.ERROR, "bad: no JSON"), (State.ERROR, "bad: no JSON")),
        ("b", (State.ANSWER, "two"), missing),
    ]


def test_a_batch_that_runs_is_shown_part_by_part_and_then_as_a_whole(tmp_path: Path) -> None:
    site = answered.site(tmp_path)
    folder = Published(site.spool.outbox / "a")
    folder.parts.mkdir(parents=True)
    published = told(folder, "in_progress")
    asked(published, {f"c{n}": f"Judge {n}" for n in range(9)})
    found = opened(site, "a")
    assert (found.total, found.running, found.indexed) == (0, True, 100), "nothing yet is no error"
    lines = [line(n, f"c{n}", chat(f"answer {n}")) for n in range(8)] + [failed(8, "c8")]
    for number, order in enumerate(([5, 2, 8], [0, 7], [1, 3, 4, 6]), 1):
        (folder.parts / f"part-{number:06d}.jsonl").write_bytes(b"".join(lines[n] for n in order))
        until = time.monotonic() + 120
        while (found := opened(site, "a")).indexed < 100:  # what is there is shown while a part is read
            assert time.monotonic() < until
            time.sleep(0.01)
        expected = sorted([5, 2, 8, 0, 7, 1, 3, 4, 6][: (3, 5, 9)[number - 1]])
        shown = found.rows(Filter()).rows
        assert [row.custom_id for row in shown] == [f"c{n}" for n in expected], "in the file's order"
        assert all(row.prompt and row.prompt[-1].text == f"Judge {row.custom_id[1:]}" for row in shown)
    folder.results.write_bytes(b"".join(lines[:8]))
    folder.errors.write_bytes(lines[8])
    for part in folder.parts.iterdir():
        part.unlink()
    assert found.rows(Filter()).rows[0].cells[0].state is State.GONE, "whoever has an old page is told to load it again"
    told(folder, "completed")
    found = opened(site, "a")
    assert (found.total, found.running) == (9, False)
    assert [row.cells[0].text for row in found.rows(Filter()).rows][:8] == [f"answer {n}" for n in range(8)]


def some(site: Site) -> Comparison:
    """A batch with answers, opened."""
    batch(site, "a", b"".join(line(n, f"c{n}", chat(f'{{"label": "{"no" if n % 3 else "yes"}"}}')) for n in range(30)))
    return opened(site, "a")


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("rows", "changed"),
        *(
            pytest.param(name, how, marks=pytest.mark.slow)
            for name in ("meta.json", "rows", "values", "text")
            for how in ("gone", "short", "changed")
            if (name, how) != ("rows", "changed")
        ),
        pytest.param("", "gone", marks=pytest.mark.slow),
    ],
)
def test_what_is_damaged_or_thrown_away_is_made_again(tmp_path: Path, name: str, how: str) -> None:
    site = answered.site(tmp_path)
    some(site)
    [made] = (site.cache / "index").iterdir()
    if not name:
        cache.shutil.rmtree(made)
    elif how == "gone":
        (made / name).unlink()
    else:
        content = (made / name).read_bytes()
        (made / name).write_bytes(content[:-9] if how == "short" else b"\x7f" + content[1:])
    forget_this_process(site)
    query = "q=label&is=A:label:no"
    expected = [f"c{n}" for n in range(30) if n % 3]
    if (name, how) in {("values", "changed"), ("text", "changed")}:  # seen when they are needed
        with pytest.raises(Wrong, match="ask again") as wrong:
            ids(opened(site, "a"), query)
        assert (wrong.value.status, wrong.value.code) == (503, "being_indexed")
    found = opened(site, "a")
    assert ids(found, query) == expected and found.row("c0") is not None


def forget_this_process(site: Site) -> None:
    """As after a restart: what was made is on the disk alone."""
    rows.tables._made.clear()
    rows.tables._caches.pop(site.cache, None)


def test_after_a_restart_nothing_is_read_again(tmp_path: Path) -> None:
    site = answered.site(tmp_path)
    some(site)
    [made] = (site.cache / "index").iterdir()
    before = (made / "rows").stat().st_mtime_ns
    forget_this_process(site)
    assert isinstance(rows.opened(site, ["a"]), Comparison), "at once"
    assert (made / "rows").stat().st_mtime_ns == before


def test_of_a_batch_that_has_ended_nothing_is_shown_before_all_of_it_is_read(tmp_path: Path) -> None:
    site = answered.site(tmp_path)
    folder = batch(site, "a", line(0, "a", chat("one")), failed(1, "b"))
    assert opened(site, "a").total == 2
    errors = Source.at(folder.errors)
    assert errors is not None
    forget_this_process(site)
    cache.shutil.rmtree(site.cache / "index" / errors.key)
    assert isinstance(rows.opened(site, ["a"]), rows.Indexing)
    assert opened(site, "a").total == 2


def test_a_file_that_was_replaced_is_another_one(tmp_path: Path) -> None:
    site = answered.site(tmp_path)
    found = some(site)
    folder = Published(site.spool.outbox / "a")
    folder.results.rename(folder.dir / "old")
    folder.results.write_bytes(line(0, "new", chat("new")))
    assert found.rows(Filter()).rows[0].cells[0].state is State.GONE
    assert ids(opened(site, "a"), "") == ["new"]


def test_a_link_in_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    site = answered.site(tmp_path)
    secret = tmp_path / "secret"
    secret.write_bytes(line(0, "secret", chat("secret")))
    folder = batch(site, "a", b"")
    folder.results.unlink()
    folder.results.symlink_to(secret)
    assert opened(site, "a").total == 0


@pytest.mark.slow
def test_what_was_of_use_longest_ago_goes_first(tmp_path: Path) -> None:
    made: list[Source] = []
    held = Cache(tmp_path / "cache", 0)
    for n in range(3):
        (tmp_path / f"f{n}").write_bytes(b"".join(line(m, f"c{m}", chat("word " * 50)) for m in range(20)))
        source = Source.at(tmp_path / f"f{n}")
        assert source is not None
        made.append(source)
        held.ask([source])
        built(held, source)
        assert len(list((tmp_path / "cache" / "index").iterdir())) == 1, (
            "what was just made stays, however small the room"
        )
    big = Cache(tmp_path / "cache", 1 << 30)
    big.ask(made)
    for source in made:
        built(big, source)
    for age, source in enumerate(reversed(made)):
        os.utime(tmp_path / "cache" / "index" / source.key, (1_000 - age, 1_000 - age))
    assert big.segment(made[0]) is not None, "which makes it the youngest"
    size = cache._size(tmp_path / "cache" / "index" / made[0].key)
    small = Cache(tmp_path / "cache", 2 * size + 10)
    small._prune(set())
    assert {path.name for path in (tmp_path / "cache" / "index").iterdir()} == {made[0].key, made[2].key}


def built(held: Cache, source: Source) -> Segment:
    until = time.monotonic() + 120
    while (found := held.segment(source)) is None or held._builder is not None:
        assert time.monotonic() < until and held.why_not([source]) is None
        time.sleep(0.01)
    return found


@pytest.mark.slow
def test_a_file_that_cannot_be_read_is_said_and_tried_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = answered.site(tmp_path)
    batch(site, "a", line(0, "c0", chat("yes")))
    monkeypatch.setattr(cache.sys, "executable", "/bin/false")
    with pytest.raises(Wrong) as wrong:
        opened(site, "a")
    assert (wrong.value.status, wrong.value.code) == (500, "not_indexed")
    assert wrong.value.message.endswith("ended with 1")
    monkeypatch.undo()
    with pytest.raises(Wrong, match="ended with 1"):
        opened(site, "a")
    monkeypatch.setattr(cache, "_AGAIN_AFTER", 0.0)
    assert ids(opened(site, "a"), "") == ["c0"]


@pytest.mark.slow
def test_a_line_of_32_mb_is_listed_by_its_beginning_and_shown_whole_by_itself(tmp_path: Path) -> None:
    site = answered.site(tmp_path)
    long = '<think>hm</think>Once \\ upon "a" time ' + "wörd " * (6 << 20)
    body = orjson.dumps(chat(long))
    assert len(body) > 32 << 20
    batch(site, "a", answer_line("batch_req_1_0", "long", body) + line(1, "short", chat("short")))
    found = opened(site, "a")
    row = found.rows(Filter(), Order.LONGEST).rows[0]
    assert (row.custom_id, row.cells[0].state, row.cells[0].text) == ("long", State.ANSWER, long[:2_000])
    assert row.cells[0].more == len(long) - 2_000
    whole = found.row("long")
    assert whole is not None and whole.cells[0].text == long and whole.cells[0].more == 0
    assert ids(found, 'q=upon "a" time') == ["long"]


@pytest.mark.slow
def test_reading_takes_no_more_memory_for_ten_times_the_lines(tmp_path: Path) -> None:
    chance = random.Random(1)
    peaks = []
    for lines in (4_000, 40_000):
        folder = tmp_path / str(lines)
        folder.mkdir()
        with open(folder / "file", "wb") as file:
            for n in range(lines):
                text = f'{{"label": "yes", "n": {chance.random()}, "reason": "{chance.random()} {"word " * 60}"}}'
                file.write(line(n, f"c{n}", chat(text)))
        peaks.append(peak_of_child(folder))
    assert peaks[1] - peaks[0] < 8 << 10, f"kilobytes: {peaks}"
    assert peaks[1] < 200 << 10


def peak_of_child(folder: Path) -> int:
    """Kilobytes that a process took which reads a file."""
    (folder / "made").mkdir()
    code = (
        "import pathlib; from inbox_daemon.web import segments; "
        f"segments.build(pathlib.Path({str(folder / 'file')!r}), pathlib.Path({str(folder / 'made')!r})); "
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    said = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True).stdout
    return int(said.split()[1])
