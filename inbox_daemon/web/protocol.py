"""What one connection may take of us: its head a time, its body a pace, its answer a reader; and how many there are.

uvicorn has none of these limits: a connection that sends a byte now and then would stay for ever. Knows nothing of what
is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from inbox_daemon.web.whence import is_loopback

HEAD_WITHIN = 10.0  # seconds, from the first byte of a request, or from the connection, to the end of its headers
HEAD_BYTES = 64 << 10
PACE_WITHIN = 60.0  # seconds, in each of which …
PACE_BYTES = 4 * 1024 * 60  # … so much of a body must come; and an answer be read by a byte
MOST = 256  # connections
MOST_OF_A_PEER = 32  # connections of one address; this host's own, where proxies are, may have all

_FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Limited(HttpToolsProtocol):
    """One connection with its limits; where it passes one, it is closed."""

    transport: asyncio.Transport
    _timer: asyncio.TimerHandle | None = None  # for a head to end, a body to go on, or an answer to be read
    _head_is_due = True  # what comes next is a request's head, and not more of a body
    _turns = 0  # ends of heads and of bodies, so far
    _head_bytes = 0
    _body_bytes = 0
    _unread = -1  # bytes of an answer that nobody took when it was last looked at

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._is_one_too_many():
            transport.write(_FULL)
            transport.close()
        else:
            self._after(HEAD_WITHIN, self._close)

    def _is_one_too_many(self) -> bool:
        connections = self.server_state.connections
        if len(connections) > MOST or not self.client:
            return len(connections) > MOST
        peer = self.client[0]
        clients = (getattr(other, "client", None) for other in connections)
        same = sum(1 for client in clients if client and client[0] == peer)
        return same > MOST_OF_A_PEER and not is_loopback(peer)

    def data_received(self, data: bytes) -> None:
        if self._is_idle and self._timer is None:
            self._after(HEAD_WITHIN, self._close)
        before = self._turns
        super().data_received(data)
        if self._head_is_due and self._turns == before and not self.transport.is_closing():  # all of it is one head's
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._stop()
                self.transport.write(_LONG)
                self.transport.close()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._head_is_due = False
        self._turns += 1
        self._head_bytes = self._body_bytes = 0
        self._watch()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._head_is_due = True
        self._turns += 1
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._stop()
        super().on_response_complete()
        if not self._is_idle:  # another request came meanwhile, and is answered now
            self._watch()

    def _watch(self) -> None:
        self._unread = -1
        self._after(PACE_WITHIN, self._look)

    def _look(self) -> None:
        """End what has stood still for so long: a body whose sender is slow, an answer whose reader is gone."""
        unread = self.transport.get_write_buffer_size()
        body_is_late = not self._head_is_due and self._body_bytes < PACE_BYTES and not self.flow.read_paused
        if body_is_late or (unread and unread == self._unread):
            self._close()
            return
        self._body_bytes, self._unread = 0, unread
        self._after(PACE_WITHIN, self._look)

    def _after(self, seconds: float, do: Callable[[], None]) -> None:
        self._stop()
        self._timer = self.loop.call_later(seconds, do)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        """End it at once: nobody waits for what is left to be written."""
        self._stop()
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)
