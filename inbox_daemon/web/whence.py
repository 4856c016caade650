"""Whence a request comes: under which name we were asked, by which page, from which address. Pure.

A browser sends requests for any page that somebody looks at, to this host as well. What tells ours from others is the
name that the browser was told (`Host`: under DNS rebinding it is the attacker's) and the page that asks (`Origin`:
another port of this host is another page, though cookies go along).
"""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?")
_OF_THIS_HOST = frozenset({"localhost", "127.0.0.1", "[::1]"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_BY_US = frozenset({b"same-origin", b"none"})


@dataclass(frozen=True, slots=True)
class Whence:
    """What a request says of where it comes from, as far as it is to be believed.

    Attributes:
        host: the name that was asked, in lower case and without a port; "" where there is none, or more than one.
        ours: scheme, name and port of the page that may ask, as browsers write an origin.
        address: ours that the connection came to, as a URL has it; "" for a Unix socket.
        peer: the asker's address; behind a proxy on this host, the one that the proxy saw.
        secure: it came by TLS.
    """

    host: str
    ours: str
    address: str
    peer: str
    secure: bool


def whence(scope: Scope) -> Whence:
    headers = scope["headers"]
    hosts = [value.decode("latin-1").lower() for name, value in headers if name == b"host"]
    found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    client, server = scope.get("client"), scope.get("server")
    peer, scheme = client[0] if client else "", scope.get("scheme", "http")
    if not peer or is_loopback(peer):  # a proxy on this host may have sent it on
        scheme = _last(headers, b"x-forwarded-proto") or scheme
        peer = _last(headers, b"x-forwarded-for") or peer
    address = server[0] if server and server[1] is not None else ""
    return Whence(
        host=found[1] if found else "",
        ours=f"{scheme}://{found[0] if found else ''}",
        address=f"[{address}]" if ":" in address else address,
        peer=peer[:64],
        secure=scheme == "https",
    )


def is_known(asked: Whence, names: Set[str]) -> bool:
    """Say whether we were asked under a name of ours. An address that came to us by name resolution is none."""
    return asked.host in _OF_THIS_HOST or asked.host in names or (bool(asked.host) and asked.host == asked.address)


def is_foreign(scope: Scope, asked: Whence) -> bool:
    """Say whether a page of somebody else wants to change something here."""
    if scope["method"] in _SAFE:
        return False
    origins = [value for name, value in scope["headers"] if name == b"origin"]
    if origins:
        return [value.decode("latin-1").lower() for value in origins] != [asked.ours]
    sites = [value for name, value in scope["headers"] if name == b"sec-fetch-site"]
    return any(site not in _BY_US for site in sites)


def is_loopback(address: str) -> bool:
    """Say whether only this host reaches an address. An IPv4 address may be written as IPv6 has it."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def _last(headers: list[tuple[bytes, bytes]], name: bytes) -> str:
    """The last word of a list that proxies add to; the ones before it may be the asker's own."""
    values = [value for key, value in headers if key == name]
    return values[-1].decode("latin-1").rpartition(",")[2].strip().lower() if values else ""
