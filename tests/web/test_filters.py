"""What stands in a URL is what is asked for, and the other way round."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from inbox_daemon.web.filters import MARKED, Filter, Order, Says, Show, Span
from inbox_daemon.web.wrong import Wrong

SIDES = st.integers(0, 5)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
ENDS = st.integers(0, 10**9)
SPANS = st.one_of(
    st.none(),
    st.builds(Span, ENDS, ENDS),
    st.builds(Span, st.none(), ENDS),
    st.builds(Span, ENDS, st.none()),
)
FILTERS = st.builds(
    Filter,
    by=st.none() | TEXTS,
    show=st.frozensets(st.sampled_from(Show)),
    only=st.none() | SIDES,
    unlike=st.none() | st.permutations(range(6)).map(lambda sides: (sides[0], sides[1])),
    delta=st.none() | st.floats(0, 1e12),
    says=st.lists(st.builds(Says, SIDES, TEXTS, TEXTS), max_size=3).map(tuple),
    characters=SPANS,
    tokens=SPANS,
    marked=st.sampled_from(["", *MARKED]),
    id=TEXTS,
    q=TEXTS,
)


@given(FILTERS, st.sampled_from(Order))
def test_a_filter_survives_its_url(filter: Filter, order: Order) -> None:
    params = QueryParams("&".join(["b=one", filter.query(), order.query(), "page=3"]))
    assert (Filter.of(params), Order.of(params)) == (filter, order)


def test_an_empty_form_asks_for_all_rows_in_the_files_order() -> None:
    sent = QueryParams("show=all&only=&unlike=&delta=&is=&characters=-&tokens=&marked=&id=&q=&order=")
    assert Filter.of(sent) == Filter() and Filter().query() == ""
    assert Order.of(sent) is Order.FILE and Order.FILE.query() == ""


@pytest.mark.parametrize(
    "query",
    [
        "show=some",
        "only=G",
        "only=AB",
        "unlike=A",
        "unlike=AA",
        "unlike=AX",
        "delta=-1",
        "delta=nan",
        "delta=inf",
        "delta=many",
        "is=A",
        "is=A:label",
        "is=Z:label:yes",
        "characters=long",
        "characters=1-2-3",
        "tokens=1e3",
        "tokens=٣-٤",
        "marked=maybe",
        "q=" + "x" * 513,
        "order=random",
    ],
)
def test_what_cannot_be_read_is_refused_by_the_name_of_its_parameter(query: str) -> None:
    with pytest.raises(Wrong) as refused:
        (Filter if not query.startswith("order") else Order).of(QueryParams(query))
    assert refused.value.status == 400
    assert refused.value.param == query.partition("=")[0]
    assert refused.value.message.startswith(query.partition("=")[0])
