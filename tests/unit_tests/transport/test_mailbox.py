"""The mailbox's parts without a registry: the task that carries a message, the queues, who can be reached."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from chatixia_langchain.errors import Busy, InvalidLine, LinkDown, RegistryRefused
from chatixia_langchain.transport import mailbox_out
from chatixia_langchain.transport.base import PeerDown, PeerJoined, PeerLeft, PeerUp, TransportEvent
from chatixia_langchain.transport.mailbox import SKILL, body_of, task_for
from chatixia_langchain.transport.mailbox_out import Outgoing, Queues
from chatixia_langchain.transport.mailbox_peers import MailboxPeers
from chatixia_langchain.transport.registry_api import _token_life_s

BODY = '{"type":"agent_prompt","payload":{"message":"gr\u00fc\u00df \\u0000"},"mesh":{"v":1,"ttl_ms":2500}}'.encode()


def test_a_message_goes_into_a_task_and_comes_out_byte_exact() -> None:
    task = json.loads(json.dumps(task_for("a", Outgoing("b", BODY, "k1"))))
    assert body_of(task) == ("a", BODY)
    assert (task["target_agent_id"], task["id"], task["ttl"]) == ("b", "k1", 2.5)


@pytest.mark.parametrize(
    ("tail", "ttl_s"),
    [(b"}", 300.0), (b',"ttl_ms":5}', 1.0), (b',"ttl_ms":999999999}', 3600.0), (b',"ttl_ms":"x"}', 300.0)],
)
def test_time_to_live_is_what_the_message_says_within_bounds(tail: bytes, ttl_s: float) -> None:
    assert task_for("a", Outgoing("b", b'{"x":1' + tail, "k"))["ttl"] == ttl_s


@pytest.mark.parametrize(
    "change",
    [
        {"skill": "search"},
        {"source_agent_id": "../x"},
        {"source_agent_id": None},
        {"payload": None},
        {"payload": {}},
        {"payload": {"mesh_message": 7}},
        {"payload": {"mesh_message": '{"a":1}\n{"b":2}'}},
        {"payload": {"mesh_message": "[]"}},
        {"payload": {"mesh_message": '{"x":"' + "y" * 262_144 + '"}'}},
    ],
)
def test_what_is_no_mesh_message_is_refused(change: dict[str, Any]) -> None:
    good = {"id": "t", "skill": SKILL, "source_agent_id": "a", "payload": {"mesh_message": {"n": 1}}}
    assert body_of(good) == ("a", b'{"n":1}')
    with pytest.raises(InvalidLine):
        body_of(good | change)


async def test_queues_keep_order_per_peer_and_one_stuck_peer_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox_out, "PAUSE_MIN_S", 0.01)
    posted, stuck = list[tuple[str, bytes]](), True

    async def post(item: Outgoing) -> None:
        if item.peer == "full" and stuck:
            raise Busy("its mailbox is full")
        posted.append((item.peer, item.body))

    queues = Queues(post)
    for n in range(5):
        queues.put(Outgoing("full", b"%d" % n, "k"))
        queues.put(Outgoing("free", b"%d" % n, "k"))
    await asyncio.sleep(0.05)
    assert posted == [("free", b"%d" % n) for n in range(5)]
    stuck = False
    async with asyncio.timeout(5):
        while queues.queued():
            await asyncio.sleep(0.01)
    assert posted[5:] == [("full", b"%d" % n) for n in range(5)]
    await queues.aclose()


async def test_a_post_is_repeated_under_its_key_and_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox_out, "PAUSE_MIN_S", 0.01)
    monkeypatch.setattr(mailbox_out, "GIVE_UP_S", 0.1)
    keys = list[str]()

    async def post(item: Outgoing) -> None:
        keys.append(item.key)
        if item.key == "refused":
            raise RegistryRefused("no", status=403)
        raise LinkDown("away")

    queues = Queues(post)
    queues.put(Outgoing("b", b"{}", "k1"))
    queues.put(Outgoing("b", b"{}", "refused"))
    async with asyncio.timeout(5):
        while queues.queued():
            await asyncio.sleep(0.01)
    assert keys.count("k1") > 2
    assert keys.count("refused") == 1
    await queues.aclose()


async def test_a_full_queue_is_busy_until_half_of_it_is_free() -> None:
    gate = asyncio.Event()

    async def post(item: Outgoing) -> None:
        await gate.wait()

    queues = Queues(post)
    with pytest.raises(Busy):  # noqa: PT012  (how many fit is not the question)
        for _ in range(1000):
            queues.put(Outgoing("b", b"x" * 10_000, "k"))
    room = asyncio.create_task(queues.room("b"))
    await asyncio.sleep(0.01)
    assert not room.done()
    gate.set()
    await asyncio.wait_for(room, 5)
    queues.put(Outgoing("b", b"x" * 10_000, "k"))
    gate.clear()
    queues.put(Outgoing("c", b"x", "k"))
    await queues.aclose()
    assert queues.queued() == 0


def record(agent_id: str, **more: Any) -> dict[str, Any]:
    return {"agent_id": agent_id, "health": "active", "card": {}} | more


def test_the_directory_becomes_joins_and_leaves() -> None:
    events = list[TransportEvent]()
    peers = MailboxPeers("me", events.append)
    peers.update([record("me"), record("b"), record("old", card=None), record("gone", health="stale"), record("../x")])
    assert events == [PeerJoined("b"), PeerUp("b", 1, path="mailbox")]
    peers.update([record("b")])
    assert len(events) == 2
    peers.update([])
    assert events[2:] == [PeerDown("b", 1, "no longer in the directory"), PeerLeft("b")]
    peers.update([record("b")])
    peers.unwanted("b")
    peers.update([record("b")])
    assert events[-1] == PeerDown("b", 2, "closed")
    peers.wanted("b")
    peers.update([record("b")])
    assert events[-1] == PeerUp("b", 3, path="mailbox")


def test_life_of_a_token_is_a_duration_and_not_a_date() -> None:
    def token(claims: dict[str, Any]) -> str:
        return "h." + base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=") + ".s"

    assert _token_life_s(token({"iat": 5, "exp": 125})) == 120.0
    for odd in ("", "a.b.c", token({}), token({"iat": 1}), token({"iat": 1, "exp": "x"})):
        assert _token_life_s(odd) == 300.0
