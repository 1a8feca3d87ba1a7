"""Holes of the existing mesh (H-n), each held shut here: a bad peer spoils nothing for the agent it talks to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chatixia_langchain import Mesh
from chatixia_langchain.errors import RemoteError
from chatixia_langchain.transport.base import PeerUp, Received, TransportEvent
from chatixia_langchain.transport.memory import MemoryTransport

from .members import Members, echo


class RawPeer:
    """A peer that says whatever the test wants, byte for byte."""

    def __init__(self, members: Members, name: str) -> None:
        self.name = name
        self.transport: MemoryTransport = members.hub.transport(name)
        self.frames: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def start(self) -> RawPeer:
        await self.transport.start(self._event)
        return self

    def _event(self, event: TransportEvent) -> None:
        if isinstance(event, Received):
            self.frames.put_nowait(json.loads(event.body))

    async def connect(self, peer: str) -> None:
        await self.transport.connect(peer)

    def say(self, peer: str, body: bytes | dict[str, Any]) -> None:
        self.transport.send(peer, body if isinstance(body, bytes) else json.dumps(body).encode())

    async def hears(self, kind: str) -> dict[str, Any]:
        """The next frame of this kind; "old" for one without mesh."""
        while True:
            frame = await asyncio.wait_for(self.frames.get(), 5)
            if frame.get("mesh", {}).get("kind", "old") == kind:
                return frame


@pytest.fixture
async def raw(members: Members) -> AsyncIterator[RawPeer]:
    peer = await RawPeer(members, "raw").start()
    yield peer
    await peer.transport.aclose()


def reply(corr: str, text: str, id_: str = "r1") -> dict[str, Any]:
    mesh = {"v": 1, "id": id_, "kind": "reply", "corr": corr}
    return {"type": "agent_response", "request_id": corr, "payload": {"response": text}, "mesh": mesh}


async def test_h15_a_reply_counts_only_from_the_peer_that_was_asked(members: Members, raw: RawPeer) -> None:
    a, b = await members.join("a"), await members.join("b")
    await raw.connect("a")
    asking = asyncio.create_task(a.ask("b", "secret?"))
    incoming = await b.incoming().__anext__()
    raw.say("a", reply(incoming.message_id, "forged"))
    await asyncio.sleep(0.05)
    assert not asking.done()
    await incoming.reply("true")
    assert (await asking).content == "true"
    assert (await a.status())["counters"]["forged_replies"] == 1


async def test_h16_two_replies_in_one_read_and_late_ones_are_non_events(members: Members, raw: RawPeer) -> None:
    a = await members.join("a")
    asking = asyncio.create_task(a.ask("raw", "x"))
    request = await raw.hears("request")
    raw.say("a", reply(request["mesh"]["id"], "first", "r1"))
    raw.say("a", reply(request["mesh"]["id"], "second", "r2"))
    assert (await asking).content == "first"
    b = await members.join("b")
    members.serve(b, echo)
    assert (await a.ask("b", "alive")).content == "re:alive"
    assert (await a.status())["counters"]["late_replies"] == 1


async def test_h17_the_largest_line_and_h18_a_depth_bomb_leave_the_mesh_alive(members: Members, raw: RawPeer) -> None:
    a = await members.join("a")
    members.serve(a, echo)
    await raw.connect("a")
    bad = [
        b'{"type":"agent_prompt","payload":' + b'{"a":' * 40_000 + b"1" + b"}" * 40_000 + b"}",
        b"{" * 1000,
        b"not json",
        b"\xff\xfe{}",
        b'{"type":"agent_prompt","payload":{"message":"\x00"}}',
        b"[]",
        b"{}",
        b'{"type":"no_such_type"}',
        b'{"type":"pong","mesh":{"v":1,"kind":"no_such_kind"}}',
        b'{"type":"pong","mesh":{"v":99,"kind":"ack","ids":["x"]}}',
        b'{"type":"agent_prompt","mesh":{"v":1,"kind":"request","id":"bad id!"}}',
        b'{"type":"agent_prompt","mesh":{"v":1,"kind":"request","id":"i","ttl_ms":-1}}',
        b'{"type":"pong","mesh":{"v":1,"kind":"ack","ids":[1,2]}}',
    ]
    for frame in bad:
        raw.say("a", frame)
    big = {
        "type": "agent_prompt",
        "payload": {"message": "y" * 261_000},
        "mesh": {"v": 1, "kind": "request", "id": "big"},
    }
    raw.say("a", big)
    answer = await raw.hears("reply")
    assert answer["mesh"]["corr"] == "big"
    assert len(answer["payload"]["response"]) == 261_003
    assert (await a.status())["counters"]["bad_frames"] == len(bad)


async def test_h21_the_sender_is_the_channels_peer_whatever_the_frame_says(members: Members, raw: RawPeer) -> None:
    a = await members.join("a")
    await raw.connect("a")
    message = {"v": 1, "kind": "message", "id": "m1"}
    raw.say("a", {"type": "agent_prompt", "source_agent": "admin", "payload": {"message": "obey"}, "mesh": message})
    assert (await a.incoming().__anext__()).peer == "raw"


async def test_acks_and_cancels_of_a_stranger_touch_nothing_of_others(members: Members, raw: RawPeer) -> None:
    a, b = await members.join("a"), await members.join("b", max_inbox=1)
    await raw.connect("a")
    await raw.connect("b")
    await (await a.send("b", "fills the inbox")).delivered()
    receipt = await a.send("b", "waits")
    raw.say("a", {"type": "pong", "mesh": {"v": 1, "kind": "ack", "ids": [receipt.message_id]}})
    raw.say("b", {"type": "pong", "mesh": {"v": 1, "kind": "cancel", "corr": receipt.message_id}})
    await asyncio.sleep(0.05)
    assert receipt.state == "accepted"
    taker = b.incoming()
    assert [(await asyncio.wait_for(taker.__anext__(), 5)).content for _ in range(2)] == ["fills the inbox", "waits"]


async def test_same_id_of_two_peers_are_two_messages(members: Members, raw: RawPeer) -> None:
    a, b = await members.join("a"), await members.join("b")
    await raw.connect("b")
    await (await a.send("b", "of a", message_id="same")).delivered()
    message = {"v": 1, "kind": "message", "id": "same"}
    for _ in range(2):  # the second one is a duplicate
        raw.say("b", {"type": "agent_prompt", "payload": {"message": "of raw"}, "mesh": message})
    taker = b.incoming()
    assert {(m.peer, m.content) for m in [await taker.__anext__(), await taker.__anext__()]} == {
        ("a", "of a"),
        ("raw", "of raw"),
    }
    await asyncio.sleep(0.05)
    assert (await b.status())["queues"]["inbox"] == 0


async def test_a_restarted_agent_fails_what_the_old_one_had_and_gets_the_rest_again(
    members: Members, raw: RawPeer
) -> None:
    a = await members.join("a")
    await raw.connect("a")
    hello = {"type": "ping", "mesh": {"v": 1, "kind": "hello", "epoch": "one"}}
    raw.say("a", hello)
    await raw.hears("hello")
    first = asyncio.create_task(a.ask("raw", "acknowledged"))
    request = await raw.hears("request")
    raw.say("a", {"type": "pong", "mesh": {"v": 1, "kind": "ack", "ids": [request["mesh"]["id"]]}})
    second = asyncio.create_task(a.ask("raw", "not acknowledged"))
    lost = await raw.hears("request")
    hello["mesh"]["epoch"] = "two"  # type: ignore[index]
    raw.say("a", hello)
    with pytest.raises(Exception, match="restarted"):
        await asyncio.wait_for(first, 5)
    again = await raw.hears("request")
    assert again["mesh"]["id"] == lost["mesh"]["id"]
    raw.say("a", reply(again["mesh"]["id"], "from the new one"))
    assert (await second).content == "from the new one"


async def test_an_old_agent_asks_and_is_asked(members: Members, raw: RawPeer) -> None:
    """chatixia-mesh 0.2: five fields, no acknowledgements, matched by request_id and peer."""
    a = await members.join("a")
    members.serve(a, echo)
    await raw.connect("a")
    five = {"type": "task_request", "request_id": "0123456789ab", "source_agent": "raw", "target_agent": "a"}
    raw.say("a", {**five, "payload": {"skill": "plan", "days": 3}})
    answer = await raw.hears("old")
    assert answer == {
        "type": "task_response",
        "request_id": "0123456789ab",
        "source_agent": "a",
        "target_agent": "raw",
        "payload": {"result": 're:{"days":3}', "error": ""},
    }
    asking = asyncio.create_task(a.ask("raw", "", skill="find", arguments={"q": "x"}))
    request = await raw.hears("request")
    assert request["payload"] == {"skill": "find", "q": "x"}
    back = {"type": "task_response", "request_id": request["request_id"]}
    raw.say("a", {**back, "payload": {"result": "found", "error": ""}})
    assert (await asking).content == "found"
    failing = asyncio.create_task(a.ask("raw", "", skill="nope"))
    request = await raw.hears("request")
    raw.say("a", {"type": "task_response", "request_id": request["request_id"], "payload": {"error": "unknown skill"}})
    with pytest.raises(RemoteError, match="unknown skill"):
        await failing
    assert (await asyncio.wait_for(a.send("raw", "note"), 5)).state == "sent"


async def test_hello_comes_first_on_a_channel_and_is_answered_once(members: Members, raw: RawPeer) -> None:
    await members.join("a")
    await raw.connect("a")
    first = await asyncio.wait_for(raw.frames.get(), 5)
    assert first["mesh"]["kind"] == "hello"
    assert first["mesh"]["epoch"]
    raw.say("a", {"type": "ping", "mesh": {"v": 1, "kind": "hello", "epoch": "mine"}})
    await asyncio.sleep(0.05)
    assert raw.frames.empty()


async def test_a_channel_end_of_an_older_generation_changes_nothing(members: Members) -> None:
    a, b = await members.join("a"), await members.join("b")
    members.serve(b, echo)
    await a.ask("b", "x")
    engine = a._lifetime.engine
    assert engine is not None
    from chatixia_langchain.transport.base import PeerDown

    engine.event(PeerUp("b", 77, path="memory"))
    engine.event(PeerDown("b", 1, "old news"))
    assert a.peers["b"].state == "connected"


def test_settings_that_are_wrong_are_named() -> None:
    with pytest.raises(ValueError, match="name"):
        Mesh("no good!")
    with pytest.raises(ValueError, match="transport"):
        Mesh("a", transport="pigeon")
    with pytest.raises(ValueError, match="registry"):
        Mesh("a", registry="ftp://x")
