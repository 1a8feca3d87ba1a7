"""Which requests may come in at all: the names this registry is called by, and the web pages that may call it. Pure.

- a browser can be led to any address under a name of the attacker's (DNS rebinding), so `Host` must be a name we know:
  an IP address, `localhost`, or one that was allowed. An IP address cannot be rebound.
- `Origin` is sent by browsers only: no page may call us unless it was allowed, neither by HTTP nor by WebSocket.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit


def fault(headers: Mapping[bytes, bytes], *, hosts: Collection[str], origins: Collection[str]) -> str:
    """Why a request with these (lower-case) headers is not taken; "" when it is.

    `hosts` are names without a port, `origins` are as browsers send them (`https://dashboard.example`).
    """
    host = headers.get(b"host", b"").decode("latin-1")
    if not is_known_host(host, hosts):
        return f"the name {host[:80]!r} is not one of this registry's: allow it with --allow-host"
    origin = headers.get(b"origin")
    if origin is not None and origin.decode("latin-1").lower() not in origins:
        return "this registry takes no calls from web pages of that origin: allow it with --allow-origin"
    return ""


def is_known_host(host: str, allowed: Collection[str]) -> bool:
    """True when a `Host` header, with or without a port, names this registry."""
    try:
        parts = urlsplit(f"//{host}")
        name, _ = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return False
    if not name or parts.username is not None or parts.path:
        return False
    return name == "localhost" or name in allowed or is_address(name)


def is_address(name: str) -> bool:
    """True for an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """True for an address, or name, that only this machine reaches."""
    return name == "localhost" or (is_address(name) and ipaddress.ip_address(name).is_loopback)
