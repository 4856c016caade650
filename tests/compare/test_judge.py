"""A judge's batch, from two outboxes to the lines, and from its verdicts to the figures."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import peers
import pytest
from outboxes import outbox

from inbox_daemon.cli import main
from inbox_daemon.compare import judging
from inbox_daemon.request.line import read_line

ASKED = {f"c{n}": f"Which is greater, {n} or 100?" for n in range(120)}


def dropped(path: Path) -> Path:
    lines = [
        {"custom_id": name, "body": {"messages": [{"role": "user", "content": asked}]}} for name, asked in ASKED.items()
    ]
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return path


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """Two batches that answer 100 of 120 requests differently."""
    for name in "AB":
        said = {custom_id: f"{name} {n}" if n < 100 else "the same" for n, custom_id in enumerate(ASKED)}
        outbox(tmp_path / name, said, model=f"org/{name}")
    return [str(tmp_path / name) for name in "AB"]


def test_the_requests_that_lie_beside_the_answers_need_no_input_and_where_none_do_it_is_said(
    tmp_path: Path, two: list[str], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    asked = dropped(tmp_path / "asked.jsonl")
    given = lines_of(capfdbinary, *two, "--with", "judge", "--input", str(asked))
    assert main(["judge", *two, "--with", "judge", "--output", "-"]) == 1
    assert b"name the file with --input" in capfdbinary.readouterr().err
    asked.rename(Path(two[1]) / "input.jsonl")
    assert lines_of(capfdbinary, *two, "--with", "judge") == given != []


def lines_of(capfdbinary: pytest.CaptureFixture[bytes], *words: str) -> list[dict[str, Any]]:
    assert main(["judge", *words, "--output", "-"]) == 0
    return [orjson.loads(line) for line in capfdbinary.readouterr().out.splitlines()]


def test_each_pair_of_answers_is_shown_in_both_orders_and_never_with_a_name(
    tmp_path: Path, two: list[str], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "criteria.txt").write_text("The right number wins.")
    file = dropped(tmp_path / "asked.jsonl")
    words = [*two, "--with", "big", "--input", str(file), "--criteria", str(tmp_path / "criteria.txt")]
    lines = lines_of(capfdbinary, *words, "--sample", "30")
    orders: dict[str, list[tuple[str, str]]] = {}
    for line in lines:
        assert read_line(orjson.dumps(line), lambda model: None, lambda url, body: None).fault is None
        request, first, second = orjson.loads(line["custom_id"])
        orders.setdefault(request, []).append((first, second))
        system, user = line["body"]["messages"]
        assert "The right number wins." in system["content"]
        assert f"user: {ASKED[request]}" in user["content"]
        number = request.removeprefix("c")
        assert (
            f"<answer_A>\n{first} {number}\n</answer_A>\n<answer_B>\n{second} {number}\n</answer_B>" in user["content"]
        )
        assert (line["body"]["model"], line["body"]["temperature"]) == ("big", 0)
    assert len(orders) == 30
    assert all(each == [("A", "B"), ("B", "A")] for each in orders.values())
    assert all(int(request.removeprefix("c")) < 100 for request in orders), "equal answers need no judge"
    assert lines == lines_of(capfdbinary, *words, "--sample", "30"), "the same seed takes the same sample"


def test_a_judge_among_the_judged_is_warned_of(
    tmp_path: Path, two: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    file = dropped(tmp_path / "asked.jsonl")
    assert main(["judge", *two, "--with", "org/A", "--input", str(file), "--output", str(tmp_path / "out")]) == 0
    assert "org/A judges answers of its own" in capfd.readouterr().err


def test_the_lines_are_dropped_as_a_batch_of_their_own(tmp_path: Path, two: list[str]) -> None:
    inbox = tmp_path / "spool" / "inbox"
    for folder in (inbox, tmp_path / "spool" / "outbox"):
        folder.mkdir(parents=True)
    file = dropped(tmp_path / "asked.jsonl")
    assert main(["judge", *two, "--with", "big", "--input", str(file), "--spool", str(tmp_path / "spool")]) == 0
    assert len((inbox / "judge-A.jsonl").read_bytes().splitlines()) == 200
    for name in ("A", "B"):
        (tmp_path / name).rename(tmp_path / f"x@{name}")
    again = [str(tmp_path / f"x@{name}") for name in ("A", "B")]
    assert main(["judge", *again, "--with", "big", "--input", str(file), "--spool", str(tmp_path / "spool")]) == 0
    assert (inbox / "judge-x.jsonl").exists(), "judge-x@A would have A judge, whatever its lines say"


def biased(truth: float, bias: float, judged: int = 2_000) -> list[tuple[str, str]]:
    """The answers of a judge for whom A is better so often, and who takes the first one unseen so often."""
    chance, said = random.Random(1), []
    for n in range(judged):
        better = "A" if chance.random() < truth else "B"
        for first, second in (("A", "B"), ("B", "A")):
            unseen = chance.random() < bias
            said.append((orjson.dumps([f"c{n}", first, second]).decode(), "A" if unseen or first == better else "B"))
    return said


def test_both_orders_take_out_what_a_judge_gives_to_the_first_place() -> None:
    (pair,) = judging.judged(judging.read(biased(0.6, 0.25)), ["A", "B"])
    assert pair["requests"] == 2_000
    share = pair["share"]
    assert share["value"] is not None
    assert share["low"] is not None
    assert share["high"] is not None
    assert share["low"] < 0.5 + 0.1 * 0.75 < share["high"], "what is left of 0.6, and not the 0.7 of one order"
    assert pair["changed_with_order"] == pytest.approx(0.25, abs=0.03)
    assert pair["first_slot"] == pytest.approx(0.625, abs=0.02)
    assert pair["p"] < 1e-6


def test_a_judge_who_always_takes_the_first_says_nothing() -> None:
    (pair,) = judging.judged(judging.read(biased(0.6, 1.0, 50)), ["A", "B"])
    assert (pair["ties"], pair["share"]["value"], pair["p"], pair["first_slot"]) == (50, 0.5, 1.0, 1.0)


def test_what_is_no_verdict_is_counted() -> None:
    whole = '["c1","A","B"]'
    verdicts = judging.read([(whole, " tie\n"), (whole, "Neither"), ("c1", "A"), ('["c1","B","A"]', "b")])
    assert verdicts.unreadable == 2
    assert verdicts.said["c1"] == {("A", "B"): "tie", ("B", "A"): "B"}


def test_strengths_are_those_that_choix_finds() -> None:
    wins = np.array([[0, 60, 75], [40, 0, 58], [25, 42, 0]], float)
    games = [(i, j) for i in range(3) for j in range(3) for _ in range(int(wins[i, j]))]
    expected = peers.choix().ilsr_pairwise(3, games)
    assert judging.bradley_terry(wins) == pytest.approx(expected - expected.mean(), abs=1e-6)


def test_who_never_lost_cannot_be_ranked() -> None:
    pairs = judging.judged(judging.read(biased(1.0, 0.0, 20)), ["A", "B"])
    assert judging.strengths(pairs, ["A", "B"]) is None


def test_compare_shows_the_verdicts_and_says_whom_the_judge_prefers(
    tmp_path: Path, two: list[str], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    outbox(tmp_path / "judge-A", biased(0.8, 0.1, 100))
    assert main(["compare", *two, "--judge", str(tmp_path / "judge-A"), "--json"]) == 0
    found = orjson.loads(capfdbinary.readouterr().out)
    assert found["judge"] == "judge-A"
    assert [each["name"] for each in found["strengths"]] == ["A", "B"]
    assert found["verdict"].endswith("The judge prefers A to each other one.")
    assert main(["compare", *two, "--judge", str(tmp_path / "judge-A"), "--html", str(tmp_path / "page.html")]) == 0
    assert b"judged by judge-A, each pair of answers in both orders" in capfdbinary.readouterr().out
    assert "first better" in (tmp_path / "page.html").read_text()
