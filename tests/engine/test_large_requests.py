"""Requests of megabytes, as images and long documents are: handed over as fast as small ones, and not all at once.

The worker and its socket are the real ones, with `frail_host` in place of vLLM.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from running import Daemon, eventually, jsonl, request

pytestmark = pytest.mark.slow

MIB = 1 << 20
IMAGE = "x" * MIB


def test_large_requests_go_to_the_worker_as_it_reads_and_wait_for_nothing_else(
    start_frail: Callable[..., Daemon],
) -> None:
    running = start_frail(INBOX_DAEMON_ENGINE__IN_FLIGHT="64")
    running.drop("b.jsonl", jsonl([request(f"r{i}", f"{IMAGE} {i}") for i in range(100)]))
    eventually(lambda: "engine ready: " in running.text(), 60)
    # Pieces of a socket's buffer at each look of the loop, of which an idle one has two or three a second: 70 s.
    assert running.finished("b", 30)["request_counts"]["completed"] == 100


def test_no_more_bytes_are_handed_over_than_is_set_however_many_requests_there_is_room_for(
    start_frail: Callable[..., Daemon],
) -> None:
    asked = [request(f"r{i}", f"{IMAGE} {i}") for i in range(60)]
    asked[0] = request("r0", f"say {IMAGE}; always: core stopped")
    running = start_frail(
        INBOX_DAEMON_ENGINE__IN_FLIGHT="64",
        INBOX_DAEMON_ENGINE__IN_FLIGHT_BYTES=str(4 * MIB),
        INBOX_DAEMON_ENGINE__STALL_AFTER="600",
    )
    running.drop("b.jsonl", jsonl(asked))
    in_flight = eventually(lambda: running.status("b").get("in_flight"), 60)
    assert 4 <= in_flight <= 16
