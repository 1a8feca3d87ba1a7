"""The network as the sidecars report it: nobody's guess. Pure.

A link that both ends report is one edge; the report of the end that says `open` is shown, or else of the lower id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def topology(
    agents: Iterable[Mapping[str, Any]], online: Iterable[str], links: Mapping[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """`{"nodes": [...], "edges": [...]}` of directory records, peers online and the links each of them reported."""
    nodes: dict[str, dict[str, Any]] = {p: {"id": p, "online": True, "agent_id": ""} for p in online}
    for record in agents:
        peer_id = record["peer_id"]
        node = nodes.setdefault(peer_id, {"id": peer_id, "online": False, "agent_id": ""})
        node.update({"agent_id": record["agent_id"], "hostname": record["hostname"], "health": record["health"]})
    edges: dict[tuple[str, str], dict[str, Any]] = {}
    for peer_id in sorted(links):
        for link in links[peer_id]:
            pair = (min(peer_id, link["peer"]), max(peer_id, link["peer"]))
            known = edges.get(pair)
            if known is None or (known["state"] != "open" and link["state"] == "open"):
                edges[pair] = {
                    "source": peer_id,
                    "target": link["peer"],
                    "state": link["state"],
                    "path": link["path"],
                    "rtt_ms": link["rtt_ms"],
                }
    return {"nodes": [nodes[k] for k in sorted(nodes)], "edges": [edges[k] for k in sorted(edges)]}
