"""How much one may ask: requests a second of a key, wrong keys a minute of a peer. Pure: `now` is monotonic seconds."""

from __future__ import annotations

from dataclasses import dataclass

_BURST = 4.0  # seconds' worth of requests that may come at once
_MOST_WRONG = 10
_WRONG_WITHIN = 60.0  # seconds
_MOST_PEERS = 10_000


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class Rate:
    """A bucket of requests for each key, filled at the rate that `web.rate` says."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._buckets: dict[str, _Bucket] = {}

    def wait(self, key: str, now: float) -> float:
        """Count one request; return 0.0, or, where it is one too many, in how many seconds the next one may come."""
        if not self._rate:
            return 0.0
        full = max(1.0, self._rate * _BURST)
        bucket = self._buckets.setdefault(key, _Bucket(full, now))
        bucket.left = min(full, bucket.left + (now - bucket.at) * self._rate)
        bucket.at = now
        if bucket.left < 1.0:
            return (1.0 - bucket.left) / self._rate
        bucket.left -= 1.0
        return 0.0


class WrongKeys:
    """Counts the wrong keys of each peer, so that who guesses, or asks on and on with an old one, is slowed down.

    Who has a right key is never counted: it cannot be guessed, and one peer may be a proxy with many behind it.
    """

    def __init__(self) -> None:
        self._peers: dict[str, tuple[int, float]] = {}
        self._swept_at = 0.0

    def wait(self, peer: str, now: float) -> float:
        """Count one; return 0.0, or, where a minute has had too many of the peer, how many seconds of it are left."""
        count, since = self._peers.get(peer, (0, now))
        if now - since >= _WRONG_WITHIN:
            count, since = 0, now
        if now - self._swept_at >= _WRONG_WITHIN:
            self._swept_at = now
            self._peers = {who: said for who, said in self._peers.items() if now - said[1] < _WRONG_WITHIN}
        if len(self._peers) >= _MOST_PEERS and peer not in self._peers:
            return _WRONG_WITHIN
        self._peers[peer] = (count + 1, since)
        return 0.0 if count < _MOST_WRONG else since + _WRONG_WITHIN - now
