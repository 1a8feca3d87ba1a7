"""ICE servers that the registry hands to its peers. Default: none, so that no address leaks to a stranger's server.

TURN: the secret stays here; a peer gets a credential of its own that ends within minutes (HMAC-SHA1 over
`<expiry>:<peer id>`, the scheme of coturn's `use-auth-secret`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

CREDENTIAL_S: Final = 600
SCHEMES: Final = ("stun:", "stuns:", "turn:", "turns:")


def parse_ice_servers(text: str) -> list[dict[str, Any]]:
    """Read `stun:a:3478,turn:b:3478` or a JSON list of `{"urls": [...], "username"?, "credential"?}`.

    Raises ValueError naming the entry that is wrong.
    """
    text = text.strip()
    if not text.startswith("["):
        return [{"urls": [_url(part.strip())]} for part in text.split(",") if part.strip()]
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"ICE servers are not a JSON list: {exc}") from exc
    return [_server(entry) for entry in entries]


def _server(entry: Any) -> dict[str, Any]:
    urls = entry.get("urls") if isinstance(entry, dict) else None
    urls = [urls] if isinstance(urls, str) else urls
    if not isinstance(urls, list) or not urls or not all(isinstance(u, str) for u in urls):
        raise ValueError(f'ICE server {_without_secret(entry)}: "urls" must be a list of URLs')
    server: dict[str, Any] = {"urls": [_url(u) for u in urls]}
    for name in ("username", "credential"):
        if name in entry:
            if not isinstance(entry[name], str):
                raise ValueError(f'ICE server {server["urls"][0]}: "{name}" must be text')
            server[name] = entry[name]
    return server


def _url(url: str) -> str:
    if not url.startswith(SCHEMES):
        raise ValueError(f"ICE server {url!r} does not start with one of {' '.join(SCHEMES)}")
    return url


def _without_secret(entry: Any) -> str:
    return json.dumps({k: v for k, v in entry.items() if k != "credential"} if isinstance(entry, dict) else entry)


def ice_servers_for(
    peer_id: str, *, servers: Sequence[Mapping[str, Any]], turn_urls: Sequence[str], turn_secret: str, now: float
) -> list[dict[str, Any]]:
    """What `peer_id` may use from `now` on; the TURN credential ends CREDENTIAL_S seconds later."""
    found = [dict(server) for server in servers]
    if turn_urls:
        username = f"{int(now) + CREDENTIAL_S}:{peer_id}"
        mac = hmac.digest(turn_secret.encode(), username.encode(), hashlib.sha1)
        credential = base64.b64encode(mac).decode()
        found.append({"urls": list(turn_urls), "username": username, "credential": credential})
    return found
