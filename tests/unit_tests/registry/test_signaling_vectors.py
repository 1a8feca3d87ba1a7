"""The shared vectors, spoken to the relay: what a sidecar may say is taken, what it may not is refused by its code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatixia_langchain.protocol.signaling import decode
from chatixia_langchain.registry.signaling import Relay, Say

FILE = Path(__file__).parents[3] / "protocol/vectors/signaling.jsonl"
VECTORS = [json.loads(line) for line in FILE.read_text().splitlines()]
TO_REGISTRY = [v for v in VECTORS if v["direction"] == "to_registry"]


def raw(vector: dict[str, Any]) -> str | bytes:
    """The bytes or text of a vector."""
    if "raw_hex" in vector:
        return bytes.fromhex(vector["raw_hex"])
    if "raw_repeat" in vector:
        return "".join(text * times for text, times in vector["raw_repeat"])
    return str(vector["raw"]) if "raw" in vector else json.dumps(vector["frame"], separators=(",", ":"))


def register(relay: Relay, conn: int, peer: str) -> None:
    relay.opened(conn, peer)
    payload = {"protocol": 1, "fingerprint": "f", "generation": 1}
    relay.heard(conn, json.dumps({"type": "register", "peer_id": peer, "payload": payload}))


@pytest.mark.parametrize("vector", TO_REGISTRY, ids=lambda v: v["name"])
def test_vector(vector: dict[str, Any]) -> None:
    """Frames come from `planner`, while `researcher` is online and `nobody` is not."""
    relay = Relay()
    register(relay, 1, "planner")
    register(relay, 2, "researcher")
    said = [json.loads(a.text) for a in relay.heard(1, raw(vector)) if isinstance(a, Say)]
    codes = [m["payload"]["code"] for m in said if m["type"] == "error"]
    assert codes == ([] if vector["valid"] else [vector["error"]])
    if vector["valid"] and "target_id" in vector["frame"]:
        assert said == [vector["frame"]]


def test_there_are_vectors() -> None:
    assert {v["valid"] for v in TO_REGISTRY} == {True, False}
    assert len(TO_REGISTRY) > 20


def test_what_we_say_is_what_peers_read() -> None:
    """Everything the relay writes passes the decoder of the other side."""
    relay = Relay()
    register(relay, 1, "a")
    relay.opened(2, "old")
    actions = relay.heard(2, '{"type":"register","peer_id":"old","payload":null}')
    relay.opened(3, "b")
    actions += relay.heard(
        3, '{"type":"register","peer_id":"b","payload":{"protocol":1,"fingerprint":"f","generation":1}}'
    )
    actions += relay.heard(3, '{"type":"offer","peer_id":"b","target_id":"a","payload":{"sdp":"x"}}')
    actions += relay.heard(3, "garbage") + relay.heard(3, '{"type":"x","target_id":"y"}') + relay.closed(2)
    kinds = [type(decode(a.text.encode())).__name__ for a in actions if isinstance(a, Say)]
    assert set(kinds) == {"PeerList", "PeerJoined", "PeerLeft", "Offer", "Error"}
