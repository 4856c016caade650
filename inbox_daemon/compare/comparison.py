"""Batches of the same requests held against each other: columns in, every figure out.

Owns which figures there are and over which requests each is taken. Reads no lines (`columns`) and draws nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from inbox_daemon.compare import agreement, columns, judging
from inbox_daemon.compare.agreement import NONE, Codes, Figure, Table
from inbox_daemon.compare.answers import Form
from inbox_daemon.compare.columns import Columns, Joined
from inbox_daemon.compare.judging import Verdicts
from inbox_daemon.compare.shapes import SCHEMA, Column, Comparison, Disagreement, Pair, Quality, Speed, Sure
from inbox_daemon.compare.verdict import verdict

_SAMPLE = 5_000  # pairs of texts whose edit distance is taken
_WORST = 200  # disagreements that are shown
_CANDIDATES = 2_000  # that are looked at for them
_LONGEST = 20_000  # characters of a text that are compared
_BARS = 24  # of a histogram


def compare(
    sides: Sequence[Columns],
    joined: Joined,
    receipts: Sequence[Mapping[str, Any]],
    *,
    label: str | None,
    number: str | None,
    truth: Mapping[str, str] | None = None,
    price: float | None = None,
    judge: tuple[str, Verdicts] | None = None,
) -> Comparison:
    """Return every figure.

    Args:
        sides: two batches or more, each read with the same `joined`; `receipts` in the same order.
        truth: the true label of requests, by custom_id.
        price: of one GPU for an hour, in any currency.
        judge: the name of a judge's batch, and what it says.
    """
    true = _codes(truth, joined) if truth is not None else None
    kinds = len(joined.labels)
    steps = steps_of([side.output_tokens[side.answered] for side in sides])
    both = zip(sides, receipts, strict=True)
    shown = [_column(side, receipt, joined, true, price, steps) for side, receipt in both]
    pairs = []
    for first, second in itertools.combinations(range(len(sides)), 2):
        both_names = (shown[first]["name"], shown[second]["name"])
        pairs.append(_pair(both_names, sides[first], sides[second], kinds, true))
    labels = np.stack([side.label for side in sides])
    names = [side["name"] for side in shown]
    judged = judging.judged(judge[1], names) if judge else []
    ranks = _disagreement(sides, labels if label is not None else None, number is not None)
    found: Comparison = {
        "schema": SCHEMA,
        "same_input": _same_input(receipts),
        "requests": len(joined.places),
        "answered_by_all": int(np.all([side.answered for side in sides], axis=0).sum()),
        "label_field": label,
        "number_field": number,
        "token_steps": steps,
        "columns": shown,
        "pairs": pairs,
        "fleiss_kappa": told(agreement.fleiss(labels, kinds)) if label is not None and len(sides) > 2 else None,
        "disagree": int((ranks > 0).sum()),
        "worst": _worst(sides, joined, ranks, true),
        "judge": judge[0] if judge else None,
        "judged": judged,
        "strengths": judging.strengths(judged, names) if judged else None,
        "unreadable": judge[1].unreadable if judge else 0,
        "verdict": "",
    }
    found["verdict"] = verdict(found)
    return found


def _codes(truth: Mapping[str, str], joined: Joined) -> Codes:
    true = np.full(len(joined.places), NONE, np.int64)
    for custom_id, label in truth.items():
        if (place := joined.places.get(custom_id)) is not None:
            true[place] = joined.code(label)
    return true


def _column(
    side: Columns,
    receipt: Mapping[str, Any],
    joined: Joined,
    true: Codes | None,
    price: float | None,
    steps: Sequence[int],
) -> Column:
    there = side.answered
    tokens = side.output_tokens[there]
    counts = np.bincount(side.label[side.label != NONE], minlength=len(joined.labels))
    numbers = side.number[~np.isnan(side.number)]
    return {
        "name": side.folder.dir.name,
        "model": next((engine.get("model") for engine in receipt.get("engines") or ()), None),
        "answers": int(there.sum()),
        "errors": int(side.failed.sum()),
        "missing": int((~there & ~side.failed).sum()),
        "unnamed": side.unnamed,
        "cut_off": int(side.cut_off.sum()),
        "refusals": int(side.refusal.sum()),
        "json": int((side.form[there] == Form.JSON).sum()),
        "fenced": int((side.form[there] == Form.FENCED).sum()),
        "broken_json": int((side.form[there] == Form.BROKEN).sum()),
        "input_tokens": int(side.input_tokens.sum()),
        "output_tokens": int(tokens.sum()),
        "output_tokens_median": float(np.median(tokens)) if len(tokens) else None,
        "output_tokens_p95": float(np.percentile(tokens, 95)) if len(tokens) else None,
        "histogram": np.bincount(np.searchsorted(steps, tokens), minlength=len(steps) + 1).tolist(),
        "labels": {label: int(counts[code]) for label, code in joined.labels.items() if counts[code]},
        "number": float(numbers.mean()) if len(numbers) else None,
        "speed": speed(receipt, price),
        "quality": _quality(side, true, joined) if true is not None else None,
    }


def steps_of(tokens: Sequence[NDArray[np.integer[Any]]]) -> list[int]:
    """Return the upper ends of equal steps that hold all but the longest answers of every batch, by output tokens."""
    longest = [np.percentile(each, 99.5) for each in tokens if len(each)]
    step = max(1, math.ceil(max(longest, default=1) / _BARS))
    return [step * (n + 1) for n in range(_BARS)]


def speed(receipt: Mapping[str, Any], price: float | None = None) -> Speed | None:
    """Return how fast a batch was, as its receipt says; None where it does not say when it began and ended."""
    times, answers = receipt.get("times") or {}, receipt.get("answers") or 0
    began, ended = times.get("in_progress_at"), times.get("finished_at")
    if began is None or ended is None:
        return None
    seconds = times.get("busy_seconds")  # since 0.3.0
    seconds = float(seconds) if seconds else max(float(ended) - float(began), 0.0)
    tokens = (receipt.get("usage") or {}).get("output_tokens")
    joules = receipt.get("energy_joules")
    gpus = sum(len(engine.get("gpus") or ()) for engine in receipt.get("engines") or ())
    spent = gpus * seconds / answers * 1_000 if gpus and answers else None
    return {
        "seconds": seconds,
        "requests_per_second": answers / seconds if seconds else None,
        "output_tokens_per_second": tokens / seconds if seconds and tokens is not None else None,
        "gpus": gpus,
        "gpu_seconds_per_1000": spent,
        "cost_per_1000": spent / 3600 * price if spent is not None and price is not None else None,
        "watt_hours_per_1000": joules / 3600 / answers * 1_000 if joules is not None and answers else None,
    }


def _quality(side: Columns, true: Codes, joined: Joined) -> Quality:
    """A request without a label of this side has a column of its own, so that it counts, and counts as wrong."""
    kinds = len(joined.labels)
    given = np.where(side.label == NONE, kinds, side.label)
    counts = agreement.table(true, given, kinds + 1)
    names = [*joined.labels, ""]
    confusion = {
        names[row]: {names[column]: int(counts[row, column]) for column in np.flatnonzero(counts[row])}
        for row in np.flatnonzero(counts.sum(1))
    }
    return {
        "labelled": int(counts.sum()),
        "accuracy": _sure(counts, agreement.share_equal),
        "macro_f1": _sure(counts, agreement.macro_f1),
        "confusion": confusion,
    }


def _pair(names: tuple[str, str], first: Columns, second: Columns, kinds: int, true: Codes | None) -> Pair:
    both = first.answered & second.answered
    worded = both & (first.digest != 0) & (second.digest != 0)
    counts = agreement.table(first.label, second.label, kinds) if kinds else np.zeros((1, 1))
    sample = _sample(np.flatnonzero(worded & (first.characters > 0) & (second.characters > 0)))
    apart = np.abs(first.number - second.number)
    apart = apart[~np.isnan(apart)]
    found: Pair = {
        "first": names[0],
        "second": names[1],
        "both": int(both.sum()),
        "same_text": float((first.digest == second.digest)[worded].mean()) if worded.any() else None,
        "similarity": _similarity(first, second, sample) if len(sample) else None,
        "similarity_of": len(sample),
        "labels_agree": _sure(counts, agreement.share_equal) if counts.any() else None,
        "kappa": _sure(counts, agreement.kappa) if counts.any() else None,
        "number_difference": float(apart.mean()) if len(apart) else None,
        "only_first_right": None,
        "only_second_right": None,
        "mcnemar_p": None,
        "accuracy_difference": None,
    }
    if true is not None and (true != NONE).any():
        labelled = true != NONE
        rights = ((first.label == true)[labelled], (second.label == true)[labelled])
        only = (int((rights[0] & ~rights[1]).sum()), int((~rights[0] & rights[1]).sum()))
        value, low, high = agreement.paired_difference(*rights)
        found["only_first_right"], found["only_second_right"] = only
        found["mcnemar_p"] = agreement.mcnemar(*only)
        found["accuracy_difference"] = {"value": value, "low": low, "high": high}
    return found


def _sample(places: NDArray[np.int64]) -> list[int]:
    """Return at most 5,000 of the places, the same ones each time, in the file's order."""
    if len(places) > _SAMPLE:
        places = np.sort(np.random.default_rng(0).choice(places, _SAMPLE, replace=False))
    return [int(place) for place in places]


def _similarity(first: Columns, second: Columns, places: Sequence[int]) -> float:
    both = zip(columns.texts(first, places), columns.texts(second, places), strict=True)
    return sum(alike(one, other) for one, other in both) / len(places)


def alike(one: str, other: str) -> float:
    """Return 1 less the edit distance of two texts over their length; of long ones, of their beginnings."""
    return float(Levenshtein.normalized_similarity(one[:_LONGEST], other[:_LONGEST]))


def _disagreement(sides: Sequence[Columns], labels: Codes | None, numbers: bool) -> NDArray[np.float64]:
    """Return for each request how far its answers are apart, 0 where they agree: by labels, else numbers, else texts.

    Labels and texts: the share of answers that are not the commonest one. Numbers: highest less lowest. A batch that
    has no answer is no opinion.
    """
    if labels is None and numbers:
        return agreement.reach(np.stack([side.number for side in sides]))
    if labels is not None:
        return agreement.spread(labels, labels != NONE)
    digests = np.stack([side.digest for side in sides])
    return agreement.spread(digests, digests != 0)


def _worst(
    sides: Sequence[Columns], joined: Joined, ranks: NDArray[np.float64], true: Codes | None
) -> list[Disagreement]:
    """Return the requests that are furthest apart; among equals those whose texts are least alike."""
    order = np.argsort(-ranks, kind="stable")[:_CANDIDATES]
    places = [int(place) for place in order if ranks[place] > 0]
    texts = [columns.texts(side, places) for side in sides]
    likeness = [
        sum(itertools.starmap(alike, itertools.combinations([text for text in each if text], 2)))
        for each in zip(*texts, strict=True)
    ]
    chosen = sorted(range(len(places)), key=lambda n: (-ranks[places[n]], likeness[n]))[:_WORST]
    ids, names = list(joined.places), list(joined.labels)

    def label(code: int) -> str | None:
        return names[code] if code != NONE else None

    return [
        {
            "custom_id": ids[place],
            "truth": label(int(true[place])) if true is not None else None,
            "texts": [text[n] for text in texts],
            "labels": [label(int(side.label[place])) for side in sides],
            "numbers": [told(float(side.number[place])) for side in sides],
        }
        for n, place in ((n, places[n]) for n in chosen)
    ]


def _same_input(receipts: Sequence[Mapping[str, Any]]) -> bool | None:
    hashes = {(receipt.get("input") or {}).get("content_sha256") for receipt in receipts}
    return None if None in hashes else len(hashes) == 1


def _sure(counts: Table, figure: Figure) -> Sure:
    low, high = agreement.interval(counts, figure)
    return {"value": told(float(figure(counts))), "low": told(low), "high": told(high)}


def told(value: float) -> float | None:
    """JSON has no NaN: what cannot be told is null."""
    return None if math.isnan(value) else value
