"""What `mesh.status()` says: plain JSON, for people and for the demo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import MeshError
from .engine import Engine

if TYPE_CHECKING:
    from .lifetime import Lifetime


async def status(engine: Engine, lifetime: Lifetime) -> dict[str, Any]:
    """Collect it. What the transport cannot tell now is left out, and `transport_error` says why."""
    core = engine.core
    detail: dict[str, Any] = {}
    problem = ""
    try:
        detail = await core.transport.status()
    except MeshError as exc:
        problem = str(exc)
    known = detail.get("peers", {})
    links = {
        p.id: {"state": p.view().state, "mailbox": p.mailbox, "old": p.old, **known.get(p.id, {})}
        for p in core.peers.values()
        if p.up or p.id in known
    }
    return {
        "name": core.name,
        "transport": core.transport.name,
        "why": lifetime.why,
        "version": core.info.version,
        "fingerprint": core.info.fingerprint,
        "trust": engine.trust.mode,
        "registry": core.config.registry,
        "link_up": core.link_up,
        "mailbox": core.mailbox is not None,
        "peers": {p.id: p.state for p in core.snapshot().values()},
        "links": links,
        "counters": dict(core.counters) | {"late_replies": core.pending.late, "forged_replies": core.pending.forged},
        "queues": {
            "inbox": len(core.inbox.items),
            "pending": len(core.pending),
            "outbox": {p.id: len(p.session.outbox) for p in core.peers.values() if len(p.session.outbox)},
        },
        "transport_status": {k: v for k, v in detail.items() if k != "peers"},
        "transport_error": problem,
    }
