"""For which batch sizes CUDA graphs are captured where the settings do not say."""

from __future__ import annotations

from itertools import pairwise

import pytest

from inbox_daemon.engine.worker.graphs import sizes


@pytest.mark.parametrize("seats", [513, 1000, 1024, 2048, 4096])
def test_graphs_reach_up_to_all_the_requests_that_are_computed_at_a_time(seats: int) -> None:
    chosen = sizes(seats, {})
    assert chosen is not None
    assert chosen == sorted(set(chosen)) and chosen[0] == 1 and chosen[-1] == seats


def test_no_large_batch_is_padded_by_more_than_an_eighth_and_few_graphs_are_captured() -> None:
    chosen = sizes(1024, {})
    assert chosen is not None
    assert all(above - below <= max(8, below / 8) for below, above in pairwise(chosen))
    assert len(chosen) < len([1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)])  # vLLM's own, up to 512


@pytest.mark.parametrize(
    ("seats", "args"),
    [
        (256, {}),
        (512, {}),
        (1024, {"enforce_eager": True}),
        (1024, {"cudagraph_capture_sizes": [1, 2]}),
        (1024, {"compilation_config": {"mode": 0}}),
        (1024, {"speculative_config": {"method": "ngram"}}),
    ],
)
def test_vllms_own_list_stays_where_it_reaches_far_enough_or_the_user_has_decided(
    seats: int, args: dict[str, object]
) -> None:
    assert sizes(seats, args) is None
