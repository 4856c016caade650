"""Batches held against each other, from their folders to the figures, the table, the JSON and the page."""

from __future__ import annotations

import random
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import orjson
import peers
import pytest
from outboxes import outbox

from inbox_daemon.cli import main

LABELS = ("yes", "no", "maybe")


def said_by(seed: int, right: float, truth: dict[str, str]) -> dict[str, str | None]:
    """Answers of a model that is right so often, and sometimes says nothing that can be used."""
    chance = random.Random(seed)
    found: dict[str, str | None] = {}
    for custom_id, label in truth.items():
        given = label if chance.random() < right else chance.choice(LABELS)
        text = f'{{"decision": "{given}", "score": {chance.randint(1, 9)}, "reason": "r{chance.random()}"}}'
        odd = chance.random()
        found[custom_id] = None if odd < 0.02 else text[: len(text) // 2] if odd < 0.04 else text
    return found


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], list[dict[str, str | None]]]:
    """An outbox with three batches, the truth, and what each of them says."""
    folder = tmp_path_factory.mktemp("three")
    chance = random.Random(0)
    truth = {f"c{n}": chance.choice(LABELS) for n in range(600)}
    said = [said_by(1, 0.9, truth), said_by(2, 0.6, truth), said_by(3, 0.86, truth)]
    for name, each, seconds in zip("ABC", said, (10.0, 30.0, 20.0), strict=True):
        outbox(folder / "outbox" / f"run@{name}", each, seconds=seconds, model=f"org/{name}", gpus=["H100"])
    labels = "\n".join(f"{custom_id},{label.upper()}" for custom_id, label in truth.items())
    (folder / "true.csv").write_text(f"\ufeffcustom_id,Label\n{labels}\nelsewhere,yes\n")
    return folder, truth, said


def compare(capfdbinary: pytest.CaptureFixture[bytes], *words: str | Path) -> dict[str, Any]:
    assert main(["compare", *map(str, words), "--json"]) == 0
    found: dict[str, Any] = orjson.loads(capfdbinary.readouterr().out)
    return found


def label(text: str | None) -> str:
    try:
        return str(orjson.loads(text or "")["decision"])
    except ValueError:
        return "none"


def test_every_figure_is_that_of_scikit_learn_and_statsmodels(
    three: tuple[Path, dict[str, str], list[dict[str, str | None]]], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    folder, truth, said = three
    names = [folder / "outbox" / f"run@{name}" for name in "ABC"]
    found = compare(capfdbinary, *names, "--labels", folder / "true.csv", "--price", "3.6")
    assert (found["label_field"], found["number_field"], found["same_input"]) == ("decision", "score", True)
    true = list(truth.values())
    given = [[label(each[custom_id]) for custom_id in truth] for each in said]
    for column, labels, each in zip(found["columns"], given, said, strict=True):
        quality, speed = column["quality"], column["speed"]
        assert quality["accuracy"]["value"] == pytest.approx(peers.metrics().accuracy_score(true, labels))
        expected = peers.metrics().f1_score(true, labels, average="macro", labels=LABELS, zero_division=0)
        assert quality["macro_f1"]["value"] == pytest.approx(expected)
        assert quality["accuracy"]["low"] < quality["accuracy"]["value"] < quality["accuracy"]["high"]
        assert column["errors"] == sum(text is None for text in each.values())
        assert column["broken_json"] == sum(text is not None and label(text) == "none" for text in each.values())
        assert speed["requests_per_second"] == pytest.approx(column["answers"] / speed["seconds"])
        assert speed["cost_per_1000"] == pytest.approx(speed["seconds"] / column["answers"] * 1_000 * 3.6 / 3_600)
    first, second = given[0], given[1]
    both = [(a, b) for a, b in zip(first, second, strict=True) if "none" not in (a, b)]
    pair = found["pairs"][0]
    assert (pair["first"], pair["second"]) == ("run@A", "run@B")
    assert pair["kappa"]["value"] == pytest.approx(peers.metrics().cohen_kappa_score(*zip(*both, strict=True)))
    assert pair["labels_agree"]["value"] == pytest.approx(sum(a == b for a, b in both) / len(both))
    alone = [
        sum(a == t != b for a, b, t in zip(first, second, true, strict=True)),
        sum(b == t != a for a, b, t in zip(first, second, true, strict=True)),
    ]
    assert [pair["only_first_right"], pair["only_second_right"]] == alone
    assert pair["mcnemar_p"] == pytest.approx(peers.tables().mcnemar([[0, alone[0]], [alone[1], 0]], exact=True).pvalue)


def test_the_verdict_names_who_may_be_as_good_and_who_is_fastest(
    three: tuple[Path, dict[str, str], list[dict[str, str | None]]], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    folder, _, _ = three
    a, b, c = (folder / "outbox" / f"run@{name}" for name in "ABC")
    labels = ("--labels", folder / "true.csv")
    told = compare(capfdbinary, a, b, *labels)["verdict"]
    assert told.startswith("run@A is the best (accuracy 0."), told
    assert told.endswith("It is also the fastest."), told
    undecided = compare(capfdbinary, a, c, *labels)["verdict"]
    assert undecided.startswith("No difference in accuracy can be told between run@A"), undecided
    assert "run@A is the fastest (" in undecided
    assert "Nothing here says which one is right" in compare(capfdbinary, a, b)["verdict"]


def test_the_worst_disagreements_come_first_and_agreement_is_none(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    answers = {"all": ("yes", "YES", "yes"), "two": ("yes", "yes", "no"), "none": ("yes", "no", "maybe")}
    same = {f"p{n}": "no" for n in range(9)}
    for at, name in enumerate("ABC"):
        outbox(tmp_path / name, {custom_id: said[at] for custom_id, said in answers.items()} | same)
    found = compare(capfdbinary, *(tmp_path / name for name in "ABC"))
    assert [each["custom_id"] for each in found["worst"]] == ["none", "two"]
    assert found["worst"][0]["labels"] == ["yes", "no", "maybe"]
    assert found["disagree"] == 2


def test_requests_are_joined_by_custom_id_and_what_cannot_be_is_counted(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    outbox(tmp_path / "A", [("x", "yes"), ("y", "no"), ("y", "yes"), ("z", None)], content="one")
    outbox(tmp_path / "B", [("y", "no"), ("x", "no"), ("w", "yes")], content="another")
    found = compare(capfdbinary, tmp_path / "A", tmp_path / "B")
    first, second = found["columns"]
    assert (found["requests"], found["answered_by_all"], found["same_input"]) == (4, 2, False)
    assert (first["answers"], first["errors"], first["missing"], first["unnamed"]) == (2, 1, 1, 1)
    assert (second["answers"], second["errors"], second["missing"], second["unnamed"]) == (3, 0, 1, 0)
    assert [each["custom_id"] for each in found["worst"]] == ["x"]


class Seen(HTMLParser):
    """What a browser would find on a page: tags, and attributes that load or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [name for name, _ in attributes if name in ("src", "href", "action") or name.startswith("on")]


def test_the_page_shows_texts_of_whatever_kind_and_runs_none_of_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    attack = '</script><img src=x onerror=alert(1)></pre>"\x1b[31m'
    outbox(tmp_path / "A<i>", {"<i>id": attack, "y": "no"})
    outbox(tmp_path / "B", {"<i>id": "no", "y": "no"})
    page = tmp_path / "page.html"
    assert main(["compare", str(tmp_path / "A<i>"), str(tmp_path / "B"), "--html", str(page)]) == 0
    assert str(page) in capfd.readouterr().out
    seen = Seen()
    seen.feed(text := page.read_text())
    assert not {"img", "i"} & set(seen.tags)
    assert seen.tags.count("script") == 1, "the figures, as data"
    assert not seen.loads
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "\x1b" not in text


def test_what_cannot_be_compared_is_said_with_its_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = outbox(tmp_path / "A", {"x": "yes"})
    running = outbox(tmp_path / "B", {"x": "yes"})
    running.receipt.unlink()
    assert main(["compare", str(whole.dir)]) == 1
    assert "name two batches at least" in capfd.readouterr().err
    assert main(["compare", str(whole.dir), str(running.dir)]) == 1
    assert f"{running.receipt} is not there: the batch has not ended" in capfd.readouterr().err
    (tmp_path / "true.csv").write_text("custom_id,wahr\nx,yes\n")
    another = outbox(tmp_path / "C", {"x": "no"})
    assert main(["compare", str(whole.dir), str(another.dir), "--labels", str(tmp_path / "true.csv")]) == 1
    assert "true.csv line 2: needs custom_id and one of label" in capfd.readouterr().err
