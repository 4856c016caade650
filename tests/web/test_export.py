"""What leaves the viewer, and what people say of answers: over HTTP, read back by who is to read it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import answered
import pytest
from outboxes import asked, batch_id
from served import As
from starlette.testclient import TestClient

from inbox_daemon.layout import Published
from inbox_daemon.spool import submitted
from inbox_daemon.web.app import application
from inbox_daemon.web.site import Site
from inbox_daemon.weblayout import WebFolder

LABELS = ("yes", "no", "maybe")
FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1")


def said(name: str) -> dict[str, str | None]:
    return {f"c{n}": f'{{"label": "{LABELS[(n + len(name)) % 3]}", "by": "{name}"}}' for n in range(12)} | {"bad": None}


class Viewer:
    """Two batches of the same requests, and a client of the pages."""

    def __init__(self, folder: Path) -> None:
        self.site: Site = answered.site(folder)
        self.site.spool.root.mkdir()
        submitted.recover(self.site.spool)  # makes the web's folders
        self.batches = [self._batch("a"), self._batch("bb")]
        self.ids = [batch_id("a"), batch_id("bb")]
        answered.opened(self.site, "a", "bb")
        self.client = TestClient(application(self.site))

    def _batch(self, name: str) -> Published:
        published = answered.batch(self.site, name, said(name) | dict.fromkeys(FORMULAS, f"{name} says -5"))
        asked(published, {custom_id: f"Judge {custom_id}" for custom_id in said(name)} | {FORMULAS[0]: "=2"})
        return published

    def mark(self, side: int, custom_id: str, mark: str, /, **more: Any) -> Any:
        body = {"batches": self.ids, "side": side, "custom_id": custom_id, "mark": mark} | more
        return self.client.post("/api/marks", json=body)

    def get(self, path: str, **params: Any) -> Any:
        return self.client.get(path, params={"b": self.ids} | params)

    def lines(self, path: str, **params: Any) -> list[Any]:
        return [json.loads(line) for line in self.get(path, **params).text.splitlines()]


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Viewer:
    return Viewer(tmp_path_factory.mktemp("viewer"))


@pytest.fixture
def viewer(once: Viewer) -> Iterator[Viewer]:
    """As it was, but for what the test has said of answers."""
    yield once
    for said in WebFolder(once.site.spool.web).marks.iterdir():
        said.unlink()


def chat(custom_id: str, answer: str) -> dict[str, Any]:
    return {"messages": [*prompt(custom_id), {"role": "assistant", "content": answer}]}


def prompt(custom_id: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Judge {custom_id}"}]


def test_an_answer_is_marked_seen_filtered_by_and_taken_back(viewer: Viewer) -> None:
    assert viewer.mark(1, "c3", "good", note="just so").json()["mark"] == "good"
    assert viewer.mark(0, "c4", "bad").status_code == 200
    assert [(m["custom_id"], m["batch"], m["mark"], m["note"]) for m in viewer.get("/api/marks").json()["data"]] == [
        ("c4", "a", "bad", ""),
        ("c3", "bb", "good", "just so"),
    ]
    comparison = answered.opened(viewer.site, "a", "bb")
    assert answered.ids(comparison, "marked=any") == ["c3", "c4"]
    assert answered.ids(comparison, "marked=good") == ["c3"]
    assert len(answered.ids(comparison, "marked=none")) == comparison.total - 2
    row = comparison.row("c3")
    assert row is not None and [(cell.mark, cell.note) for cell in row.cells] == [("", ""), ("good", "just so")]
    alone = answered.opened(viewer.site, "bb").row("c3")
    assert alone is not None and alone.cells[0].mark == "good", "a mark is the batch's, whatever it stands beside"
    gone = viewer.client.delete("/api/marks", params={"b": viewer.ids[1], "custom_id": "c3"})
    assert gone.json()["deleted"] is True and answered.ids(comparison, "marked=any") == ["c4"]


@pytest.mark.parametrize(
    ("said", "status", "param"),
    [
        ({"mark": "fine"}, 400, "mark"),
        ({"side": 2}, 400, "side"),
        ({"side": True}, 400, "side"),
        ({"batches": []}, 400, "batches"),
        ({"batches": ["../../etc"]}, 404, "batch_id"),
        ({"custom_id": 7}, 400, "custom_id"),
        ({"custom_id": "nobody"}, 404, "custom_id"),
        ({"custom_id": "bad"}, 404, "custom_id"),
        ({"note": "x" * 5_000}, 400, "note"),
    ],
)
def test_a_mark_that_is_none_is_refused(viewer: Viewer, said: dict[str, Any], status: int, param: str) -> None:
    refused = viewer.mark(0, "c1", "good", **said)
    assert (refused.status_code, refused.json()["error"]["param"]) == (status, param)


def test_good_answers_become_examples_each_with_its_prompt(viewer: Viewer) -> None:
    for side, custom_id, mark in ((0, "c1", "good"), (1, "c1", "best"), (0, "c2", "bad"), (0, "c5", "good")):
        viewer.mark(side, custom_id, mark)
    texts = [said("a"), said("bb")]
    assert viewer.lines("/export/few-shot.jsonl") == [
        chat("c1", texts[1]["c1"] or ""),
        chat("c5", texts[0]["c5"] or ""),
    ], "of c1 the best one, though another was marked before"
    assert len(viewer.lines("/export/few-shot.jsonl", n=1)) == 1
    ready = viewer.get("/export/few-shot.jsonl", form="list").json()
    assert [message["role"] for message in ready] == ["system", "user", "assistant", "user", "assistant"]
    assert viewer.get("/export/few-shot.jsonl", form="xml").status_code == 400
    assert viewer.get("/export/few-shot.jsonl", n="many").status_code == 400


def test_balanced_examples_have_as_many_of_each_label_as_there_are(viewer: Viewer) -> None:
    for custom_id in ("c0", "c3", "c6", "c9", "c1", "c2"):  # four of one label, one of each other
        viewer.mark(0, custom_id, "good")
    found = viewer.lines("/export/few-shot.jsonl", n=3, balance="label")
    assert {json.loads(each["messages"][-1]["content"])["label"] for each in found} == set(LABELS)
    first = viewer.lines("/export/few-shot.jsonl", n=3)
    assert len({json.loads(each["messages"][-1]["content"])["label"] for each in first}) == 1


def test_good_against_bad_of_a_request_become_pairs_in_both_forms(viewer: Viewer) -> None:
    for side, custom_id, mark in (
        (0, "c1", "good"),
        (1, "c1", "bad"),
        (0, "c2", "good"),  # nothing bad beside it
        (1, "c3", "bad"),  # nothing good beside it
        (0, "c4", "bad"),
        (1, "c4", "best"),
    ):
        viewer.mark(side, custom_id, mark)
    texts = [said("a"), said("bb")]
    expected = [
        (custom_id, texts[good][custom_id], texts[1 - good][custom_id]) for custom_id, good in (("c1", 0), ("c4", 1))
    ]
    trl = viewer.lines("/export/preferences.jsonl", form="trl")
    assert [(e["prompt"], e["chosen"][0]["content"], e["rejected"][0]["content"]) for e in trl] == [
        (prompt(custom_id), good, bad) for custom_id, good, bad in expected
    ]
    openai = viewer.lines("/export/preferences.jsonl")
    assert [e["input"]["messages"] for e in openai] == [e["prompt"] for e in trl]
    assert [(e["preferred_output"], e["non_preferred_output"]) for e in openai] == [
        (e["chosen"], e["rejected"]) for e in trl
    ]
    judged = answered.opened(viewer.site, "a", "bb").judged()
    assert [(j.both, j.only_first, j.only_second, j.p) for j in judged] == [(2, 1, 1, 1.0)]


def test_answers_to_different_prompts_are_no_pair_and_what_has_none_is_counted(tmp_path: Path) -> None:
    viewer = Viewer(tmp_path)
    asked(viewer.batches[1], {"c1": "Judge c1 otherwise"})
    answered.opened(viewer.site, "a", "bb")
    for side, custom_id, mark in ((0, "c1", "good"), (1, "c1", "bad"), (0, "c2", "good"), (1, "c2", "bad")):
        viewer.mark(side, custom_id, mark)
    found = viewer.get("/export/preferences.jsonl")
    assert (found.text, found.headers["x-left-out"]) == ("", "1")


def test_a_mark_of_a_long_answer_carries_nothing_and_it_is_read_again(viewer: Viewer) -> None:
    long = "x" * (70 << 10)
    answered.batch(viewer.site, "long", {"c1": long})
    asked(Published(viewer.site.spool.outbox / "long"), {"c1": long})
    answered.opened(viewer.site, "long")
    id = batch_id("long")
    marked = viewer.client.post("/api/marks", json={"batches": [id], "custom_id": "c1", "mark": "good"})
    assert marked.status_code == 200
    found = viewer.client.get("/export/few-shot.jsonl", params={"b": id}).json()
    assert [len(each["content"]) for each in found["messages"]] == [9, len(long), len(long)]


def test_filtered_rows_are_a_table_in_which_nothing_is_a_formula(viewer: Viewer) -> None:
    viewer.mark(0, "c1", "good", note="+cmd")
    sent = viewer.get("/export/rows.csv", by="label")
    assert sent.headers["content-disposition"] == 'attachment; filename="rows.csv"'
    rows = list(csv.DictReader(io.StringIO(sent.content.decode("utf-8-sig"), newline="")))
    assert len(rows) == 13 + len(FORMULAS)
    assert all(not cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for cell in row.values())
    by_id = {row["custom_id"]: row for row in rows}
    assert {f"'{custom_id}" for custom_id in FORMULAS} < set(by_id), "they are there, and text"
    one = by_id["c1"]
    assert (one["a: answer"], one["a: label"], one["a: mark"], one["a: note"]) == (
        said("a")["c1"],
        "maybe",
        "good",
        "'+cmd",
    )
    assert one["prompt"] == "system: Be brief.\n\nuser: Judge c1"
    assert by_id["bad"]["bb: error"] == "engine_crash: it died"
    some = viewer.get("/export/rows.csv", q="maybe", order="longest").content.decode("utf-8-sig")
    assert len(list(csv.reader(io.StringIO(some, newline="")))) == 1 + 8


@pytest.mark.slow
def test_what_compare_makes_is_to_be_had_as_a_page(viewer: Viewer) -> None:
    sent = viewer.get("/export/comparison.html")
    assert sent.status_code == 200 and "attachment" in sent.headers["content-disposition"]
    assert sent.text.startswith("<!doctype html>") and "<h1>a : bb</h1>" in sent.text
    receipt = viewer.batches[0].receipt
    away = receipt.rename(receipt.with_name("away"))
    refused = viewer.get("/export/comparison.html")
    away.rename(receipt)
    assert refused.status_code == 409 and "has not ended" in refused.json()["error"]["message"]


def test_nothing_leaves_to_a_key_that_has_not_made_the_batch(viewer: Viewer) -> None:
    stranger = TestClient(As(application(viewer.site), "stranger", False))
    for path in ("/export/few-shot.jsonl", "/export/preferences.jsonl", "/export/rows.csv", "/export/comparison.html"):
        assert stranger.get(path, params={"b": viewer.ids}).status_code == 404
    body = {"batches": viewer.ids, "side": 0, "custom_id": "c1", "mark": "good"}
    assert stranger.post("/api/marks", json=body).status_code == 404
    assert stranger.get("/api/marks", params={"b": viewer.ids}).status_code == 404
    assert answered.ids(answered.opened(viewer.site, "a", "bb"), "marked=any") == []
