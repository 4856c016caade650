"""A browser's session: who gives a right key at /login gets a signed cookie for twelve hours in its place.

The secret that signs is made at each start and kept nowhere: a restart ends all sessions. A key's end ends its own.
"""

from __future__ import annotations

import hmac
import secrets

from inbox_daemon.web.keys import Key, Keys

COOKIE = "inbox_session"
HOURS = 12
_SECONDS = HOURS * 3600


class Sessions:
    """Makes and reads the cookie: the key's sum, when it ends, and both signed. `now` is Unix seconds."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._secret = secrets.token_bytes(32)

    def value(self, key: Key, now: float) -> str:
        said = f"{key.sum}.{int(now) + _SECONDS}"
        return f"{said}.{self._signed(said)}"

    def key(self, value: str, now: float) -> Key | None:
        """Return whose session it is: None where nobody signed it, it has ended, or the key has."""
        said, _, signature = value.rpartition(".")
        if not hmac.compare_digest(self._signed(said).encode(), signature.encode(errors="replace")):
            return None
        sum_, _, ends = said.partition(".")
        return self._keys.with_sum(sum_) if now < int(ends) else None

    def cookie(self, key: Key | None, now: float, *, secure: bool) -> bytes:
        """Return the Set-Cookie header of a new session, or, without a key, of the end of one."""
        value, seconds = (self.value(key, now), _SECONDS) if key else ("", 0)
        kept = f"{COOKIE}={value}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Strict"
        return (kept + "; Secure" if secure else kept).encode()

    def _signed(self, said: str) -> str:
        return hmac.digest(self._secret, said.encode(errors="replace"), "sha256").hex()


def cookie_of(header: bytes) -> str:
    """Return the session's value out of a Cookie header; "" where it has none."""
    for part in header.decode("latin-1").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""
