"""Batches side by side: every filter and order against what plain Python finds in the same answers."""

from __future__ import annotations

import random
from collections import Counter
from itertools import permutations
from pathlib import Path

import answered
import pytest
from answered import ids, opened, value
from outboxes import Said, asked

from inbox_daemon.web.cells import State
from inbox_daemon.web.rows import Comparison, Filter, Order
from inbox_daemon.web.wrong import Wrong

LABELS = ("yes", "no", "maybe")
NAMES = ("run@a", "run@b", "run@c")


def said_by(seed: int) -> dict[str, Said]:
    """Answers of a model that follows the truth mostly; some are errors, some broken, some requests it never had."""
    chance = random.Random(seed)
    found: dict[str, Said] = {}
    for n in range(300):
        label = LABELS[n % 3] if chance.random() < 0.7 else chance.choice(LABELS)
        shout = label.upper() if chance.random() < 0.2 else label
        text = f'{{"label": "{shout}", "score": {chance.randint(1, 9)}, "reason": "{"words " * chance.randint(1, 9)}"}}'
        odd = chance.random()
        if odd > 0.98:
            continue
        found[f"c{n}"] = None if odd < 0.02 else text[: len(text) // 2] if odd < 0.05 else text
    return found


SAID = [said_by(seed) for seed in (1, 2, 3)]
EVERY = [f"c{n}" for n in range(300) if any(f"c{n}" in said for said in SAID)]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    site = answered.site(tmp_path_factory.mktemp("three"))
    for name, said, seconds in zip(NAMES, SAID, (10.0, 20.0, 40.0), strict=True):
        published = answered.batch(site, name, said, seconds)
        asked(published, {custom_id: f"Judge {custom_id}" for custom_id in EVERY})
    return opened(site, *NAMES)


def says(custom_id: str, field: str) -> list[object]:
    return [value(said.get(custom_id), field) for said in SAID]


def dissents(custom_id: str, side: int) -> bool:
    mine = says(custom_id, "label")
    others = [each for n, each in enumerate(mine) if n != side and each is not None]
    common = [each for each, count in Counter(others).items() if 2 * count > len(others)]
    return mine[side] is not None and bool(common) and common[0] != mine[side]


def numbers(custom_id: str) -> list[float]:
    return [float(each) for each in says(custom_id, "score") if isinstance(each, int | float)]


def broken(custom_id: str) -> bool:
    return any(text is not None and value(text, "label") is None for said in SAID if (text := said.get(custom_id)))


def texts(custom_id: str) -> list[str]:
    return [text for said in SAID if (text := said.get(custom_id)) is not None]


WANTED = {
    "": lambda c: True,
    "show=differ": lambda c: len({each for each in says(c, "label") if each is not None}) > 1,
    "only=B": lambda c: dissents(c, 1),
    "unlike=AC": lambda c: None not in (pair := says(c, "label")[::2]) and pair[0] != pair[1],
    "by=score&delta=5": lambda c: len(numbers(c)) > 1 and max(numbers(c)) - min(numbers(c)) >= 5,
    "by=score&show=differ": lambda c: len(set(numbers(c))) > 1,
    "by=": lambda c: True,
    "show=errors": lambda c: any(c in said and said[c] is None for said in SAID),
    "show=missing": lambda c: any(c not in said for said in SAID),
    "show=nojson": broken,
    "is=A:label:YES&is=C:label:no": lambda c: says(c, "label")[0] == "yes" and says(c, "label")[2] == "no",
    "is=B:score:7": lambda c: says(c, "score")[1] == 7,
    "characters=60-80": lambda c: any(60 <= len(text) <= 80 for text in texts(c)),
    "characters=-30": lambda c: any(len(text) <= 30 for text in texts(c)),
    "tokens=7": lambda c: bool(texts(c)),
    "tokens=8-": lambda c: False,
    "id=c17": lambda c: c == "c17",
    "q=LABEL%22: %22m": lambda c: any('label": "m' in text.lower() for text in texts(c)),
    "q=/score.: [89],/": lambda c: any('score": 8' in text or 'score": 9' in text for text in texts(c)),
    'q=/^."label": "NO.*\\}$/': lambda c: any('"label": "no' in t.lower() and t.endswith("}") for t in texts(c)),
    "q=/reason[^q]*words words/": lambda c: any("words words" in text for text in texts(c)),
    "q=engine_crash": lambda c: any(c in said and said[c] is None for said in SAID),
    "show=differ&show=errors": lambda c: WANTED["show=differ"](c) and WANTED["show=errors"](c),
}


@pytest.mark.parametrize("query", WANTED)
def test_a_filter_lets_through_what_it_says(three: Comparison, query: str) -> None:
    found = ids(three, query)
    assert len(found) == len(set(found))
    assert set(found) == {custom_id for custom_id in EVERY if WANTED[query](custom_id)}


def test_an_order_puts_first_what_it_says(three: Comparison) -> None:
    found = ids(three, "by=score", Order.APART)
    apart = [max(each) - min(each) if (each := numbers(c)) else 0 for c in found]
    assert apart == sorted(apart, reverse=True)
    found = ids(three, "", Order.APART)
    kinds = [len({each for each in says(c, "label") if each is not None}) for c in found]
    assert kinds == sorted(kinds, reverse=True)
    lengths = [max(map(len, texts(c)), default=0) for c in ids(three, "", Order.LONGEST)]
    assert lengths[:250] == sorted(lengths[:250], reverse=True)


def test_a_row_has_the_prompt_and_what_each_batch_says(three: Comparison) -> None:
    assert (three.by, three.total, three.running) == ("label", len(EVERY), False)
    for row in three.rows(Filter(), page=3).rows:
        line = int(row.custom_id[1:])
        assert row.prompt is not None
        assert [(each.role, each.text) for each in row.prompt] == [
            ("system", "Be brief."),
            ("user", f"Judge c{line}"),
        ]
        for said, cell in zip(SAID, row.cells, strict=True):
            if row.custom_id not in said:
                assert cell.state is State.MISSING
            elif (text := said[row.custom_id]) is None:
                assert (cell.state, cell.text) == (State.ERROR, "engine_crash: it died")
            else:
                assert (cell.state, cell.text, cell.output_tokens) == (State.ANSWER, text, 7)
                assert dict(cell.fields).get("label", "").casefold() == (value(text, "label") or "")
    whole = three.row("c5")
    assert whole is not None and whole.custom_id == "c5" and three.row("c999") is None


def kappa(first: list[object], second: list[object]) -> float:
    """Cohen's, by the words of its definition."""
    pairs = [(one, other) for one, other in zip(first, second, strict=True) if one is not None and other is not None]
    same = sum(one == other for one, other in pairs) / len(pairs)
    counts = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    by_chance = sum(counts[0][kind] * counts[1][kind] for kind in counts[0]) / len(pairs) ** 2
    return (same - by_chance) / (1 - by_chance)


def test_the_header_has_each_batchs_figures_and_how_far_each_two_agree(three: Comparison) -> None:
    header = three.header()
    assert (header.by, header.rows, header.differ) == ("label", len(EVERY), sum(map(WANTED["show=differ"], EVERY)))
    for side, (figures, said) in enumerate(zip(header.sides, SAID, strict=True)):
        answers = [text for text in said.values() if text is not None]
        assert (figures.name, figures.model) == (NAMES[side], f"org/{NAMES[side]}")
        assert (figures.answers, figures.errors) == (len(answers), len(said) - len(answers))
        assert figures.missing == len(EVERY) - len(said)
        assert figures.no_json == sum(value(text, "label") is None for text in answers)
        assert figures.differ == sum(dissents(custom_id, side) for custom_id in EVERY)
        assert (figures.tokens_median, figures.tokens_p95, sum(figures.histogram)) == (7, 7, len(answers))
        assert figures.speed and figures.speed["requests_per_second"] == len(answers) / (10.0, 20.0, 40.0)[side]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        pair = header.pair(other, one)
        labels = [[says(custom_id, "label")[side] for custom_id in EVERY] for side in (one, other)]
        assert pair and pair.kappa == pytest.approx(kappa(*labels), abs=1e-12)
        scores = [pair for c in EVERY if None not in (pair := says(c, "score")[one : other + 1 : other - one])]
        by_score = three.header("score").pair(one, other)
        apart = [abs(float(str(first)) - float(str(second))) for first, second in scores]
        assert by_score and by_score.difference == pytest.approx(sum(apart) / len(apart), abs=1e-12)
    assert header.alpha == pytest.approx(alpha(EVERY), abs=1e-12)


def alpha(custom_ids: list[str]) -> float:
    """Krippendorff's for labels, by the words of its definition."""
    units = [[each for each in says(custom_id, "label") if each is not None] for custom_id in custom_ids]
    units = [unit for unit in units if len(unit) > 1]
    observed = sum(sum(a != b for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units)
    counts = Counter(each for unit in units for each in unit)
    total = sum(counts.values())
    by_chance = sum(count * (total - count) for count in counts.values()) / (total - 1)
    return 1 - observed / by_chance


def test_a_page_beyond_the_last_is_the_last(three: Comparison) -> None:
    last = three.rows(Filter(), page=10_000)
    assert (last.page, last.pages, last.found) == (6, 6, len(EVERY))
    assert three.rows(Filter(id="nobody")).rows == ()


@pytest.mark.parametrize(
    ("query", "param"), [("only=D", "only"), ("unlike=AF", "unlike"), ("is=E:label:yes", "is"), ("q=/(/", "q")]
)
def test_a_side_that_is_not_shown_and_a_pattern_that_is_none_are_refused(
    three: Comparison, query: str, param: str
) -> None:
    with pytest.raises(Wrong) as refused:
        ids(three, query)
    assert (refused.value.status, refused.value.param) == (400, param)


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    site = answered.site(tmp_path)
    for names, status in (
        ([], 400),
        (["a", "a"], 400),
        (list("abcdefg"), 400),
        (["nobody"], 404),
        (["../escape"], 404),
        (["a\0b"], 404),
    ):
        with pytest.raises(Wrong) as refused:
            answered.rows.opened(site, names)
        assert refused.value.status == status
