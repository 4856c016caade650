"""Whether an embedding or a score is made of numbers, in each of the forms that vLLM answers in."""

from __future__ import annotations

import base64
import json
import struct
from math import inf, nan
from types import SimpleNamespace
from typing import Any

import pytest

from inbox_daemon.engine.worker import numbers, outputs

FINE = (0.25, -1.5, 3.0)
FORMS = {
    ("float32", "little"): lambda values: struct.pack(f"<{len(values)}f", *values),
    ("float32", "big"): lambda values: struct.pack(f">{len(values)}f", *values),
    ("float16", "little"): lambda values: struct.pack(f"<{len(values)}e", *values),
    ("float16", "big"): lambda values: struct.pack(f">{len(values)}e", *values),
    ("bfloat16", "little"): lambda values: b"".join(struct.pack("<f", value)[2:] for value in values),
    ("bfloat16", "big"): lambda values: b"".join(struct.pack(">f", value)[:2] for value in values),
}


def body(**fields: Any) -> SimpleNamespace:
    return SimpleNamespace(data=[SimpleNamespace(**FIELDS_OF_A_GOOD_ONE), SimpleNamespace(**fields)])


FIELDS_OF_A_GOOD_ONE = {"embedding": list(FINE)}


@pytest.mark.parametrize("wrong", [nan, inf, -inf])
def test_what_is_no_finite_number_is_found_in_a_list_and_in_a_score(wrong: float) -> None:
    assert not numbers.lacking(None, body(embedding=list(FINE)), {})
    assert numbers.lacking(None, body(embedding=[0.5, wrong, 0.5]), {})
    assert numbers.lacking(None, body(embedding=[[0.5, 1.0], [wrong, 0.5]]), {})  # a vector for each token
    for name, list_name in (("score", "data"), ("relevance_score", "results")):
        for value, found in ((0.5, False), (wrong, True)):
            one = SimpleNamespace(**{list_name: [SimpleNamespace(**{name: 0.1}), SimpleNamespace(**{name: value})]})
            assert numbers.lacking(None, one, {}) is found


@pytest.mark.parametrize(("dtype", "order"), FORMS)
def test_it_is_found_in_base64_whatever_the_type_and_the_order_of_bytes(dtype: str, order: str) -> None:
    request = {"encoding_format": "base64", "embed_dtype": dtype, "endianness": order}
    for values, found in ((FINE, False), ((0.5, nan, 0.5), True)):
        text = base64.b64encode(FORMS[dtype, order](values)).decode()
        assert numbers.lacking(None, body(embedding=text), request) is found


def test_it_is_found_where_it_has_become_null_or_no_json_could_be_made_of_it() -> None:
    def answer(raw: str, status: int = 200) -> SimpleNamespace:
        return SimpleNamespace(body=raw.encode(), status_code=status)

    embedding = '{"id":"x","data":[{"index":0,"embedding":[%s],"object":"embedding"}],"usage":{"details":null}}'
    assert numbers.lacking(answer(embedding % "0.5,null"), None, {})
    assert not numbers.lacking(answer(embedding % "0.5,1.5"), None, {})
    assert not numbers.lacking(answer('{"error":null}', 500), None, {})
    with pytest.raises(ValueError, match="not JSON compliant") as raised:
        json.dumps(nan, allow_nan=False)
    assert numbers.lacking(raised.value, None, {})
    assert not numbers.lacking(ValueError("temperature must be"), None, {})


@pytest.mark.parametrize(
    ("error", "of_content"),
    [(KeyError("role"), True), (AttributeError("x"), True), (OSError("no route"), False), (MemoryError(), False)],
)
def test_what_the_front_end_stumbles_over_is_the_requests_fault_and_what_the_host_lacks_is_not(
    error: Exception, of_content: bool
) -> None:
    assert outputs.is_of_content(error) is of_content
