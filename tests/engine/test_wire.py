"""Frames survive however a stream is cut, and a request that a worker was handed comes back once, answered or not."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inbox_daemon.engine import wire
from inbox_daemon.engine.worker.__main__ import Connection, Work
from inbox_daemon.records import Outcome, Request

TICKETS = st.integers(0, (1 << 64) - 1)
TOKENS = st.integers(0, (1 << 32) - 1)
REQUESTS = st.builds(
    Request,
    TICKETS,
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.integers(0, (1 << 32) - 1),
    st.binary(max_size=200),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.text(st.characters(codec="utf-8"), max_size=40),
)
OUTCOMES = st.builds(Outcome, TICKETS, st.binary(max_size=200), st.booleans(), TOKENS, TOKENS, TOKENS, TOKENS)
SENT = st.lists(
    st.one_of(
        st.tuples(st.just(wire.Kind.REQUESTS), st.lists(REQUESTS, min_size=1, max_size=5)),
        st.tuples(st.just(wire.Kind.OUTCOMES), st.lists(OUTCOMES, min_size=1, max_size=5)),
        st.tuples(st.sampled_from([wire.Kind.RECALL, wire.Kind.RECALLED]), st.lists(TICKETS, min_size=1, max_size=5)),
    ),
    max_size=8,
)
READ = {
    wire.Kind.REQUESTS: wire.read_requests,
    wire.Kind.OUTCOMES: wire.read_outcomes,
    wire.Kind.RECALL: wire.read_tickets,
    wire.Kind.RECALLED: wire.read_tickets,
}


def frames(kind: wire.Kind, things: Sequence[object]) -> bytes:
    make = {wire.Kind.REQUESTS: wire.requests, wire.Kind.OUTCOMES: wire.outcomes}
    made = make[kind](things) if kind in make else wire.tickets(kind, things)
    return b"".join(made)


@given(SENT, st.lists(st.integers(0, 4000), max_size=20))
def test_what_is_sent_is_read_wherever_the_stream_is_cut(
    sent: list[tuple[wire.Kind, list[object]]], cuts: list[int]
) -> None:
    stream = b"".join(frames(kind, things) for kind, things in sent)
    inbound, read = wire.Inbound(), []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(stream)], strict=True):
        read += [(kind, list(READ[kind](payload))) for kind, payload in inbound.feed(stream[start:end])]
    assert read == sent


class Slow:
    """A host that takes its time over each request, and says of some that they are wrong, as vLLM does when aborted."""

    dead = False

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def caught_up(self, count: int) -> None:
        await asyncio.sleep(0)

    async def answer(self, request: Request) -> Outcome | None:
        try:
            await asyncio.sleep(self._chance.choice([0, 0, 0.001, 0.003, 3600]))
        except asyncio.CancelledError:
            if self._chance.random() < 0.5:
                raise
            return Outcome(request.ticket, b"Client disconnected", is_error=True)
        return Outcome(request.ticket, b"answer")


async def worked(seed: int) -> tuple[Counter[int], Counter[int], int]:
    """Hand out requests and recall some at random, in the end all; return what came back answered, and unanswered."""
    chance = random.Random(seed)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    connection = Connection(theirs)
    tasks = [asyncio.create_task(one) for one in (Work(connection, Slow(chance)).take(), connection.send_answers())]
    answered, unanswered, inbound, handed = Counter[int](), Counter[int](), wire.Inbound(), 0
    loop = asyncio.get_running_loop()

    async def read(until: int) -> None:
        while answered.total() + unanswered.total() < until:
            for kind, payload in inbound.feed(await loop.sock_recv(ours, 1 << 16)):
                if kind is wire.Kind.OUTCOMES:
                    answered.update(outcome.ticket for outcome in wire.read_outcomes(payload))
                else:
                    unanswered.update(wire.read_tickets(payload))

    for _ in range(chance.randrange(1, 6)):
        some = [Request(handed + n, "id", 1, b"{}") for n in range(chance.randrange(1, 60))]
        handed += len(some)
        await loop.sock_sendall(ours, frames(wire.Kind.REQUESTS, some))
        if chance.random() < 0.7:
            recalled = chance.sample(range(handed), chance.randrange(0, handed))  # some of them long answered
            await loop.sock_sendall(ours, b"".join(wire.tickets(wire.Kind.RECALL, recalled)))
        await asyncio.sleep(chance.choice([0, 0.002]))
    await loop.sock_sendall(ours, b"".join(wire.tickets(wire.Kind.RECALL, list(range(handed)))))
    try:
        await asyncio.wait_for(read(handed), 10)
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        ours.close()
        theirs.close()
    return answered, unanswered, handed


@pytest.mark.parametrize("seed", range(40))
def test_a_request_comes_back_once_answered_or_recalled_whatever_the_order_of_both(seed: int) -> None:
    answered, unanswered, handed = asyncio.run(worked(seed))
    assert answered + unanswered == Counter(range(handed))
