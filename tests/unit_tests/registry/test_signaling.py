"""The relay's rules, by plain calls: who is online, who hears what, who may say what."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatixia_langchain.protocol.limits import MAX_CANDIDATE_BYTES, MAX_SDP_BYTES, MAX_SIGNAL_BYTES
from chatixia_langchain.registry.signaling import MAX_SOCKETS_PER_PEER, Action, Hang, Relay, Say


def frame(kind: str, sender: str, target: str | None = None, payload: Any = None) -> str:
    """A frame as a sidecar writes it."""
    head = {"type": kind, "peer_id": sender}
    return json.dumps({**head, **({"target_id": target} if target else {}), "payload": payload}, separators=(",", ":"))


def old(relay: Relay, conn: int, peer: str) -> list[Action]:
    """A chatixia-mesh sidecar comes online."""
    return relay.opened(conn, peer) + relay.heard(conn, frame("register", peer))


def new(relay: Relay, conn: int, peer: str, generation: int = 1, fingerprint: str = "") -> list[Action]:
    """A protocol-1 sidecar comes online."""
    register = {"protocol": 1, "fingerprint": fingerprint or f"sha-256 {peer}", "generation": generation}
    return relay.opened(conn, peer) + relay.heard(conn, frame("register", peer, payload=register))


def said(actions: list[Action], conn: int) -> list[dict[str, Any]]:
    """What was said to one socket."""
    return [json.loads(a.text) for a in actions if isinstance(a, Say) and a.conn == conn]


def code(actions: list[Action], conn: int) -> str:
    """The code of the one error that was said, to `conn` alone."""
    (only,) = actions
    assert isinstance(only, Say)
    assert only.conn == conn
    answer = json.loads(only.text)
    assert (answer["type"], answer["peer_id"]) == ("error", "registry")
    return str(answer["payload"]["code"])


def test_old_peer_hears_the_list_and_nothing_of_joins() -> None:
    """An old sidecar only knows `peer_list`; anything else it may choke on."""
    relay = Relay()
    assert old(relay, 1, "a") == [Say(1, '{"type":"peer_list","peer_id":"registry","payload":{"peers":[]}}')]
    assert said(new(relay, 2, "b"), 1) == []
    assert said(relay.closed(2), 1) == []
    assert old(relay, 3, "c") == [Say(3, '{"type":"peer_list","peer_id":"registry","payload":{"peers":["a"]}}')]


def test_new_peer_hears_details_joins_and_leaves() -> None:
    relay = Relay()
    old(relay, 1, "a")
    (listed,) = said(new(relay, 2, "b"), 2)
    assert listed["payload"] == {"peers": ["a"], "details": {"a": {"fingerprint": None, "protocol": 0}}}
    (joined,) = said(new(relay, 3, "c"), 2)
    assert joined["type"] == "peer_joined"
    assert joined["payload"] == {"peer_id": "c", "fingerprint": "sha-256 c", "protocol": 1}
    (left,) = said(relay.closed(3), 2)
    assert (left["type"], left["peer_id"], left["payload"]) == ("peer_left", "registry", {"peer_id": "c"})


def test_payload_is_carried_byte_for_byte() -> None:
    """Fields and number spellings we do not know belong to the peers."""
    relay = Relay()
    old(relay, 1, "a")
    new(relay, 2, "b")
    payload = '{"sdp":"v=0\\r\\n","later":[1.50, 1e3,"\\u00e9"]}'
    sent = f'{{"type":"offer","peer_id":"a","target_id":"b","payload":{payload}}}'
    assert relay.heard(1, sent) == [Say(2, sent)]


def test_sender_is_the_socket() -> None:
    """A missing sender is filled in; another's name is refused, and nothing reaches the target."""
    relay = Relay()
    new(relay, 1, "a")
    new(relay, 2, "b")
    (heard,) = said(relay.heard(1, '{"type":"offer","target_id":"b","payload":{"sdp":"x"}}'), 2)
    assert heard["peer_id"] == "a"
    assert code(relay.heard(1, frame("offer", "b", "b", {"sdp": "x"})), 1) == "forged_sender"
    twice = '{"type":"offer","peer_id":"b","peer_id":"a","target_id":"b","payload":{"sdp":"x"}}'
    (heard,) = said(relay.heard(1, twice), 2)
    assert heard["peer_id"] == "a"
    old(relay, 3, "c")
    assert relay.heard(3, frame("offer", "b", "a", {"sdp": "x"})) == []


def test_unknown_target_is_an_error_and_names_it() -> None:
    relay = Relay()
    new(relay, 1, "a")
    (answer,) = said(relay.heard(1, frame("offer", "a", "nobody", {"sdp": "x"})), 1)
    assert (answer["payload"]["code"], answer["payload"]["target_id"]) == ("peer_offline", "nobody")


def test_end_of_candidates_is_not_for_old_peers() -> None:
    relay = Relay()
    new(relay, 1, "a")
    old(relay, 2, "b")
    new(relay, 3, "c")
    assert relay.heard(1, frame("ice_candidate", "a", "b", {"candidate": ""})) == []
    assert len(relay.heard(1, frame("ice_candidate", "a", "c", {"candidate": ""}))) == 1


def test_older_socket_cannot_take_the_newer_one_away() -> None:
    """H-5: the end of a replaced socket removed the live peer, which nobody could reach from then on."""
    relay = Relay()
    new(relay, 9, "watcher")
    new(relay, 1, "a", generation=1)
    actions = new(relay, 2, "a", generation=2)
    assert Hang(1, 4409, "superseded") in actions
    assert [m["type"] for m in said(actions, 9)] == ["peer_left", "peer_joined"]
    assert relay.closed(1) == []
    assert relay.is_online("a")
    assert relay.heard(1, frame("offer", "a", "watcher", {"sdp": "x"})) == []
    assert said(relay.heard(9, frame("offer", "watcher", "a", {"sdp": "x"})), 2)


def test_same_sidecar_on_a_new_socket_is_no_news_to_others() -> None:
    relay = Relay()
    new(relay, 9, "watcher")
    new(relay, 1, "a", generation=7)
    actions = new(relay, 2, "a", generation=7)
    assert Hang(1, 4409, "superseded") in actions
    assert said(actions, 9) == []


def test_older_generation_is_refused() -> None:
    """A sidecar that was replaced comes back late: the live one stays."""
    relay = Relay()
    new(relay, 1, "a", generation=5)
    actions = new(relay, 2, "a", generation=4)
    assert said(actions, 2)[0]["payload"]["code"] == "superseded"
    assert actions[-1] == Hang(2, 4409, "superseded")
    relay.closed(2)
    assert relay.is_online("a")


def test_nothing_before_register() -> None:
    """H-4: who is not in the peer list relays nothing either."""
    relay = Relay()
    new(relay, 1, "a")
    relay.opened(2, "b")
    assert code(relay.heard(2, frame("offer", "b", "a", {"sdp": "x"})), 2) == "invalid_line"
    assert relay.online() == ["a"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("not json", "invalid_line"),
        ("[]", "invalid_line"),
        ('{"type":5}', "invalid_line"),
        ('{"peer_id":"a"}', "invalid_line"),
        (b"\xff\xfe", "invalid_line"),
        ("\ud800", "invalid_line"),
        ('{"type":"offer\x00"}', "invalid_line"),
        (frame("dance", "a"), "unknown_type"),
        (frame("offer", "a", "a"), "invalid_line"),
        (frame("offer", "a", "a", {"sdp": 5}), "invalid_line"),
        (frame("offer", "a", payload={"sdp": "x"}), "invalid_line"),
        (frame("answer", "a", "a", {"sdp": "x" * (MAX_SDP_BYTES + 1)}), "invalid_line"),
        (frame("ice_candidate", "a", "a", {"candidate": "x" * (MAX_CANDIDATE_BYTES + 1)}), "invalid_line"),
        (frame("topology", "a", payload={"links": [{"peer": "b"}]}), "invalid_line"),
        (frame("register", "a", payload={"protocol": "one"}), "invalid_line"),
        (frame("register", "a", payload={"protocol": -1}), "invalid_line"),
        (frame("heartbeat", "a", payload="x" * MAX_SIGNAL_BYTES), "line_too_long"),
        ('{"type":"offer","target_id":"a","payload":' + "[" * 5000 + "]" * 5000 + "}", "invalid_line"),
        ('{"type":"offer","target_id":"a","payload":{"sdp":"x","y":' + "[" * 70 + "]" * 70 + "}}", "invalid_line"),
    ],
)
def test_garbage_is_one_error_and_changes_nothing(text: str | bytes, expected: str) -> None:
    relay = Relay()
    new(relay, 1, "a")
    assert code(relay.heard(1, text), 1) == expected
    assert relay.online() == ["a"]


def test_heartbeat_and_registering_again_are_quiet() -> None:
    relay = Relay()
    new(relay, 1, "a")
    new(relay, 2, "b")
    assert relay.heard(1, frame("heartbeat", "a", payload={})) == []
    again = relay.heard(1, frame("register", "a", payload={"protocol": 1, "fingerprint": "sha-256 a", "generation": 1}))
    assert [m["type"] for m in said(again, 1)] == ["peer_list"]
    assert said(again, 2) == []


def test_links_are_what_the_online_peers_reported() -> None:
    relay = Relay()
    new(relay, 1, "a")
    link = {"peer": "b", "state": "open", "path": {"local": "host"}, "rtt_ms": 1.5}
    assert relay.heard(1, frame("topology", "a", payload={"links": [link]})) == []
    assert relay.links() == {"a": [link]}
    relay.closed(1)
    assert relay.links() == {}


def test_one_peer_cannot_hold_many_sockets() -> None:
    relay = Relay()
    for conn in range(MAX_SOCKETS_PER_PEER):
        assert relay.opened(conn, "a") == []
    assert relay.opened(99, "a") == [Hang(99, 1013, "too many sockets")]
    assert relay.opened(100, "b") == []
    relay.closed(0)
    assert relay.opened(101, "a") == []


def test_a_withdrawn_key_ends_its_own_sockets_and_no_others() -> None:
    relay = Relay()
    relay.opened(1, "a", "old key")
    relay.opened(2, "a", "old key")
    relay.opened(3, "a", "new key")
    relay.opened(4, "b", "key of b")
    assert relay.revoke(lambda key: key != "old key") == [Hang(c, 4401, "credential revoked") for c in (1, 2)]
