"""The shape of a comparison, as `compare --json` prints it. Types alone. Null is a figure that cannot be told."""

from __future__ import annotations

from typing import TypedDict

SCHEMA = 1


class Sure(TypedDict):
    """A figure and its 95 % interval."""

    value: float | None
    low: float | None
    high: float | None


class Quality(TypedDict):
    """How good one batch's labels are, where the true ones are given.

    Attributes:
        labelled: requests with a true label. One without an answer, or without a label in it, counts as wrong.
        confusion: true label → given label → how often; "" is none.
    """

    labelled: int
    accuracy: Sure
    macro_f1: Sure
    confusion: dict[str, dict[str, int]]


class Speed(TypedDict):
    """How fast one batch was, from its receipt.

    Attributes:
        seconds: in which engines had requests of it; before 0.3.0, from "accepted" to the receipt.
        gpus: on how many it ran; 0 on a CPU.
        gpu_seconds_per_1000: GPU seconds for 1,000 answers; `cost_per_1000` at the price that was given.
        watt_hours_per_1000: that the GPUs have spent on 1,000 answers, where the daemon could tell.
    """

    seconds: float
    requests_per_second: float | None
    output_tokens_per_second: float | None
    gpus: int
    gpu_seconds_per_1000: float | None
    cost_per_1000: float | None
    watt_hours_per_1000: float | None


class Column(TypedDict):
    """One batch.

    Attributes:
        name: its folder's. model: which answered it, as its receipt says.
        missing: requests that another batch has and this one does not.
        unnamed: lines without a custom_id of their own, left out.
        cut_off: answers that ended for want of room. refusals: short ones that look like a refusal.
        json, fenced, broken_json: answers that are JSON, JSON between fences, or begin like it and are none.
        output_tokens_median, output_tokens_p95: of an answer.
        histogram: answers by output tokens, in `Comparison.token_steps`.
        labels: how often each label was given. number: the mean of the field of numbers.
    """

    name: str
    model: str | None
    answers: int
    errors: int
    missing: int
    unnamed: int
    cut_off: int
    refusals: int
    json: int
    fenced: int
    broken_json: int
    input_tokens: int
    output_tokens: int
    output_tokens_median: float | None
    output_tokens_p95: float | None
    histogram: list[int]
    labels: dict[str, int]
    number: float | None
    speed: Speed | None
    quality: Quality | None


class Pair(TypedDict):
    """Two batches, over the requests that both have answered.

    Attributes:
        same_text: the share of answers that say the same; case, white space and the order of JSON's keys aside.
        similarity: mean of 1 - edit distance / length, over a sample of `similarity_of`.
        labels_agree, kappa: over the answers that both have a label.
        number_difference: mean absolute difference of the field of numbers.
        only_first_right, only_second_right, mcnemar_p: against the true labels, where there are any.
        accuracy_difference: the first's accuracy less the second's, on the same requests.
    """

    first: str
    second: str
    both: int
    same_text: float | None
    similarity: float | None
    similarity_of: int
    labels_agree: Sure | None
    kappa: Sure | None
    number_difference: float | None
    only_first_right: int | None
    only_second_right: int | None
    mcnemar_p: float | None
    accuracy_difference: Sure | None


class Judged(TypedDict):
    """Two batches before a judge that saw each pair of answers in both orders.

    Attributes:
        requests: that were judged in both orders. ties: said so, or the verdict changed with the order.
        share: of the requests that the first wins, ties halved. p: that it wins as often as it loses (sign test).
        changed_with_order: the share of requests whose verdict did. first_slot: how often the answer shown first was
            preferred, of the verdicts that are no tie; far from 0.5, the judge reads poorly.
    """

    first: str
    second: str
    requests: int
    first_preferred: int
    ties: int
    second_preferred: int
    share: Sure
    p: float
    changed_with_order: float | None
    first_slot: float | None


class Strength(TypedDict):
    """One batch's strength before the judge (`judging.strengths`)."""

    name: str
    strength: float


class Disagreement(TypedDict):
    """One request on which the batches differ most; texts, labels and numbers in the columns' order."""

    custom_id: str
    truth: str | None
    texts: list[str]
    labels: list[str | None]
    numbers: list[float | None]


class Comparison(TypedDict):
    """All of it.

    Attributes:
        same_input: whether all batches were made of the same bytes; null where a receipt does not say.
        requests: how many any of the batches has. answered_by_all: of them.
        label_field, number_field: where labels and numbers were found; "" is the whole text, null: nowhere.
        token_steps: upper ends of the histogram's steps, in output tokens; the last one has no end.
        disagree: requests on which not all labels (or, without labels, texts) are the same.
        worst: the requests on which they differ most, the worst first.
        judge: the judge's batch; judged: what it says of each two; strengths: the best first, null where one cannot
            tell. unreadable: answers of the judge that are no verdict. Null without a judge.
        verdict: which to take, in one sentence or two.
    """

    schema: int
    same_input: bool | None
    requests: int
    answered_by_all: int
    label_field: str | None
    number_field: str | None
    token_steps: list[int]
    columns: list[Column]
    pairs: list[Pair]
    fleiss_kappa: float | None
    disagree: int
    worst: list[Disagreement]
    judge: str | None
    judged: list[Judged]
    strengths: list[Strength] | None
    unreadable: int
    verdict: str
