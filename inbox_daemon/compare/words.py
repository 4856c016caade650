"""A comparison's figures in words, the same in a terminal and on a page: which rows there are, how a cell reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from inbox_daemon.compare.answers import WHOLE
from inbox_daemon.compare.shapes import Column, Comparison, Pair, Sure

PAIR_HEADS = ("", "same text", "similar", "same label", "kappa", "numbers apart", "accuracy", "p")

Row = tuple[str, list[str]]


def summary(found: Comparison) -> str:
    """Return what was compared, in one line."""
    said = f"{found['requests']:,} requests, {found['answered_by_all']:,} answered by all"
    label, number = found["label_field"], found["number_field"]
    if label is not None:
        said += f"; label: {'the whole answer' if label == WHOLE else label}"
    return said + (f"; number: {number}" if number is not None else "")


def warning(found: Comparison) -> str | None:
    """Return why the figures may compare what cannot be compared; None where they do not."""
    if found["same_input"] is None:
        return "Whether these batches were made of the same file is not known; they are joined by custom_id."
    return None if found["same_input"] else "These batches were made of different files; they are joined by custom_id."


def figures(sides: Sequence[Column]) -> Iterable[Row]:
    """Yield each figure that says anything: its name, and a cell for each batch."""
    speeds, qualities = [side["speed"] for side in sides], [side["quality"] for side in sides]
    values: tuple[tuple[str, list[float | None], str], ...] = (
        ("answers", [side["answers"] for side in sides], "{:,}"),
        ("errors", [side["errors"] or None for side in sides], "{:,}"),
        ("not in the batch", [side["missing"] or None for side in sides], "{:,}"),
        ("without a custom_id of its own", [side["unnamed"] or None for side in sides], "{:,}"),
        ("cut off (max_tokens)", [side["cut_off"] or None for side in sides], "{:,}"),
        ("look like a refusal", [side["refusals"] or None for side in sides], "{:,}"),
        ("JSON", [side["json"] or None for side in sides], "{:,}"),
        ("JSON between ``` fences", [side["fenced"] or None for side in sides], "{:,}"),
        ("broken JSON", [side["broken_json"] or None for side in sides], "{:,}"),
        ("output tokens, median", [side["output_tokens_median"] for side in sides], "{:,.0f}"),
        ("output tokens, 95 of 100 below", [side["output_tokens_p95"] for side in sides], "{:,.0f}"),
        ("mean of the number", [side["number"] for side in sides], "{:,.3f}"),
        ("requests/s", [speed and speed["requests_per_second"] for speed in speeds], "{:,.1f}"),
        ("output tokens/s", [speed and speed["output_tokens_per_second"] for speed in speeds], "{:,.0f}"),
        ("GPU seconds for 1,000 answers", [speed and speed["gpu_seconds_per_1000"] for speed in speeds], "{:,.1f}"),
        ("Wh of the GPUs for 1,000 answers", [speed and speed["watt_hours_per_1000"] for speed in speeds], "{:,.1f}"),
        ("cost of 1,000 answers", [speed and speed["cost_per_1000"] for speed in speeds], "{:,.4f}"),
    )
    for name, cells, form in values:
        if any(cell is not None for cell in cells):
            yield name, ["none" if cell is None else form.format(cell) for cell in cells]
    if any(qualities):
        yield "accuracy", [sure(quality["accuracy"]) if quality else "" for quality in qualities]
        yield "macro F1", [sure(quality["macro_f1"]) if quality else "" for quality in qualities]


def pairs(found: Sequence[Pair]) -> tuple[list[str], list[list[str]]]:
    """Return the heads and the rows of the table of pairs, without the columns that say nothing."""
    cells = [
        [
            f"{pair['first']} : {pair['second']}",
            percent(pair["same_text"]),
            percent(pair["similarity"]),
            sure(pair["labels_agree"]),
            sure(pair["kappa"]),
            "" if pair["number_difference"] is None else f"{pair['number_difference']:.3f}",
            sure(pair["accuracy_difference"], sign="+"),
            "" if pair["mcnemar_p"] is None else f"{pair['mcnemar_p']:.2g}",
        ]
        for pair in found
    ]
    used = [at for at in range(len(PAIR_HEADS)) if any(row[at] for row in cells)]
    return [PAIR_HEADS[at] for at in used], [[row[at] for at in used] for row in cells]


def judge(found: Comparison) -> str:
    """Return which judge it is, and how much of what it said was a verdict."""
    said = f"judged by {found['judge']}, each pair of answers in both orders"
    return said + (f"; {found['unreadable']:,} of its answers are no verdict" if found["unreadable"] else "")


def judged(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return the heads and the rows of the table of verdicts."""
    heads = ["", "requests", "first better", "tie", "second better", "first's share", "p", "order changed it"]
    rows = [
        [
            f"{pair['first']} : {pair['second']}",
            f"{pair['requests']:,}",
            f"{pair['first_preferred']:,}",
            f"{pair['ties']:,}",
            f"{pair['second_preferred']:,}",
            sure(pair["share"]),
            f"{pair['p']:.2g}",
            percent(pair["changed_with_order"]),
        ]
        for pair in found["judged"]
    ]
    return heads, rows


def sure(figure: Sure | None, sign: str = "") -> str:
    """A figure with its 95 % interval: 0.932 [0.925, 0.939]."""
    if figure is None or figure["value"] is None:
        return ""
    value = f"{figure['value']:{sign}.3f}"
    if figure["low"] is None or figure["high"] is None:
        return value
    return f"{value} [{figure['low']:.3f}, {figure['high']:.3f}]"


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def rate(side: Column) -> float:
    """Return answers a second; 0 where the receipt does not tell."""
    return (side["speed"]["requests_per_second"] or 0.0) if side["speed"] else 0.0
