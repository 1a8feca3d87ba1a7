"""Whether the demo showed what it is to show: every answer came back, and by which way. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .demo_members import DemoFailed

WEBRTC = ("sidecar", "aiortc")  # transports whose messages go over data channels
Event = dict[str, Any]
HEARERS = ("librarian", "researcher")


def rows_of(name: str, status: Mapping[str, Any]) -> list[dict[str, str]]:
    """The links of one agent's `Mesh.status()`, as a table for people."""
    rows = []
    for peer, link in sorted(status["links"].items()):
        path, rtt = link.get("path"), link.get("rtt_ms")
        kinds = f"{path.get('local')}/{path.get('remote')}" if isinstance(path, dict) else str(path or "-")
        rows.append(
            {
                "link": f"{name} > {peer}",
                "state": str(link.get("state", "-")),
                "path": kinds,
                "dtls": str(link.get("dtls") or "-"),
                "rtt_ms": f"{rtt:.2f}" if isinstance(rtt, int | float) else "-",
                "transport": str(status["transport"]),
            }
        )
    return rows


def judge(
    seen: Mapping[str, Iterable[Event]], joined: Mapping[str, Event], rows: list[dict[str, str]]
) -> dict[str, Any]:
    """Make the result from what each agent told.

    Raises DemoFailed naming the first thing that is missing.
    """
    events = {name: list(told) for name, told in seen.items()}
    tools = {(name, e["name"]): e for name, told in events.items() for e in told if e["event"] == "tool"}
    said = [e["text"] for e in events["planner"] if e["event"] == "said" and not e["calls"]]
    asked = [("planner", "ask_researcher"), ("researcher", "ask_librarian")]
    for who, tool in asked:
        if (who, tool) not in tools:
            raise DemoFailed(f"the {who}'s model did not call {tool}")
    for (who, tool), event in tools.items():
        if event["failed"]:
            raise DemoFailed(f"the {who}'s {tool} failed: {event['text']}")
    if not said:
        raise DemoFailed("the planner's model gave no answer")
    if ("planner", "mesh_broadcast") not in tools:
        raise DemoFailed("the planner's model did not call mesh_broadcast")
    deaf = [n for n in HEARERS if not any(e["event"] == "turn" and e["broadcast"] for e in events[n])]
    if deaf:
        raise DemoFailed(f"the broadcast did not reach {' and '.join(deaf)}")
    for who, tool in asked:
        path = tools[who, tool]["artifact"]["path"]
        if path != "channel":
            raise DemoFailed(f"the answer to the {who}'s {tool} came by the {path}, not over a data channel")
    ways = {name: e["transport"] for name, e in joined.items()}
    if wrong := {name: way for name, way in ways.items() if way not in WEBRTC}:
        raise DemoFailed("not over WebRTC: " + ", ".join(f"{name} used {way}" for name, way in wrong.items()))
    notes = sorted({r["dtls"] for r in rows} - {"-"})
    if "aiortc" in ways.values():
        notes += sorted({e["why"] for e in joined.values() if e["transport"] == "aiortc"} - {"asked for"})
    return {
        "ok": True,
        "answer": said[-1],
        "transport": "/".join(sorted(set(ways.values()))),
        "note": f" ({'; '.join(notes)})" if notes else "",
        "latency_ms": {tool: tools[who, tool]["artifact"]["latency_ms"] for who, tool in asked},
        "links": rows,
    }
