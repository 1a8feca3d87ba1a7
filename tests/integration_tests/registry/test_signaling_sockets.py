"""The WebSocket itself: handshakes, presence, replaced and slow sockets, many sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket as sockets
import struct
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from chatixia_langchain.registry import sockets as skin
from chatixia_langchain.registry.server import RegistryServer

from .conftest import World, until


async def test_header_and_subprotocol_open_the_door(world: World) -> None:
    token = await world.caller("a").token()
    by_header = await world.sidecar("a")
    assert by_header.socket.subprotocol is None
    offered = [Subprotocol("chatixia.v1"), Subprotocol(f"bearer.{token}")]
    by_subprotocol = await world.sidecar("a", additional_headers={}, subprotocols=offered)
    assert by_subprotocol.socket.subprotocol == "chatixia.v1", "the token must not come back"
    assert await by_subprotocol.register() == {"peers": [], "details": {}}


async def test_doors_that_stay_shut(world: World) -> None:
    token = await world.caller("a").token()
    for query, headers in (
        ("", {}),
        ("", {"Authorization": "Bearer a.b.c"}),
        ("", {"Authorization": f"Basic {token}"}),
        ("?token=a.b.c", {}),
        (f"?token={token}", {}),
        ("", {"x-api-key": world.caller("a").key}),
    ):
        with pytest.raises(InvalidStatus) as caught:
            await connect(world.server.ws_url + query, additional_headers=headers, proxy=None)
        assert caught.value.response.status_code == 401
        assert json.loads(caught.value.response.body)["code"] == "unauthorized"


async def test_query_token_behind_its_option() -> None:
    with RegistryServer(allow_query_token=True) as server:
        world = World(server)
        token = await world.caller("a").token()
        async with connect(f"{server.ws_url}?token={token}", proxy=None) as socket:
            await socket.send('{"type":"register","peer_id":"a","payload":null}')
            assert await socket.recv() == '{"type":"peer_list","peer_id":"registry","payload":{"peers":[]}}'
        await world.aclose()


async def test_offer_answer_candidates_cross(world: World) -> None:
    a, b = await world.online("a"), await world.online("b")
    for here, there in ((a, b), (b, a)):
        for kind, payload in (
            ("offer", {"sdp": "v=0", "protocol": 1, "connection": "0123456789abcdef", "restart": True}),
            ("answer", {"sdp": "v=0", "protocol": 1, "connection": "0123456789abcdef"}),
            ("ice_candidate", {"candidate": "candidate:1", "sdpMid": "", "sdpMLineIndex": 0, "connection": "c"}),
            ("ice_candidate", {"candidate": ""}),
        ):
            await here.say(kind, there.peer_id, payload)
            assert await there.hear(kind) == payload


async def test_presence(world: World) -> None:
    a = await world.online("a")
    b = await world.sidecar("b")
    assert await b.register() == {"peers": ["a"], "details": {"a": {"fingerprint": "fp a", "protocol": 1}}}
    assert await a.hear("peer_joined") == {"peer_id": "b", "fingerprint": "fp b", "protocol": 1}
    b.socket.transport.abort()
    assert await a.hear("peer_left") == {"peer_id": "b"}


async def test_newer_socket_takes_over_and_stays(world: World) -> None:
    """H-5 on real sockets: after the old socket's end the peer is still reachable."""
    watcher, first = await world.online("w"), await world.online("a", generation=1)
    second = await world.online("a", generation=2)
    assert (await first.hear("error"))["code"] == "superseded"
    await asyncio.wait_for(first.socket.wait_closed(), 20)
    assert (first.socket.close_code, first.socket.close_reason) == (4409, "superseded")
    await until(lambda: len(world.server.registry.sockets._connections) == 2)
    await watcher.say("offer", "a", {"sdp": "x"})
    assert await second.hear("offer") == {"sdp": "x"}
    late = await world.sidecar("a")
    await late.say("register", payload={"protocol": 1, "fingerprint": "", "generation": 1})
    assert (await late.hear("error"))["code"] == "superseded"
    await asyncio.wait_for(late.socket.wait_closed(), 20)
    assert late.socket.close_code == 4409
    await watcher.say("offer", "a", {"sdp": "y"})
    assert await second.hear("offer") == {"sdp": "y"}


async def test_every_bad_frame_is_one_error_and_the_socket_lives(world: World) -> None:
    a = await world.online("a")
    for bad, code in (
        ("garbage", "invalid_line"),
        ("[" * 60_000, "invalid_line"),
        (b"\x00\xff", "invalid_line"),
        ('{"type":"dance","peer_id":"a"}', "unknown_type"),
        ('{"type":"offer","peer_id":"b","target_id":"a","payload":{"sdp":"x"}}', "forged_sender"),
        ('{"type":"offer","peer_id":"a","target_id":"b","payload":{"sdp":"x"}}', "peer_offline"),
        ('{"type":"heartbeat","payload":"' + "x" * 70_000 + '"}', "line_too_long"),
    ):
        await a.socket.send(bad)
        assert (await a.hear("error"))["code"] == code, bad[:60]
    await a.say("heartbeat", payload={})
    await a.say("offer", "a", {"sdp": "still here"})
    assert await a.hear("offer") == {"sdp": "still here"}


async def test_frame_far_too_big_ends_its_socket_alone(world: World) -> None:
    a, b = await world.online("a"), await world.online("b")
    await a.socket.send("x" * (300 * 1024))
    await asyncio.wait_for(a.socket.wait_closed(), 20)
    assert a.socket.close_code == 1009
    await b.hear("peer_left")


async def test_silent_socket_is_hung_up_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that never registers is nobody's: it ends by itself."""
    monkeypatch.setattr(skin, "HANDSHAKE_TIMEOUT_MS", 200)
    silent = await world.sidecar("a")
    talking = await world.online("b")
    await asyncio.wait_for(silent.socket.wait_closed(), 20)
    assert silent.socket.close_code == 4408
    await asyncio.sleep(0.3)
    await talking.say("offer", "b", {"sdp": "x"})
    await talking.hear("offer")


class Deaf:
    """A sidecar that registers and then never reads: its kernel buffers are as small as they get."""

    def __init__(self, world: World, token: str) -> None:
        where = urlsplit(world.server.url)
        assert where.hostname is not None
        assert where.port is not None
        self.socket = sockets.socket()
        self.socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        self.socket.settimeout(20)
        self.socket.connect((where.hostname, where.port))
        self.socket.sendall(
            "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):  # frames may only follow the answer
            answer += self.socket.recv(4096)
        assert answer.startswith(b"HTTP/1.1 101"), answer
        register = b'{"type":"register","peer_id":"deaf","payload":{"protocol":1,"fingerprint":"","generation":1}}'
        self.socket.sendall(b"\x81" + bytes([0x80 | len(register)]) + struct.pack("!I", 0) + register)


async def test_slow_socket_is_closed_not_buffered(world: World) -> None:
    """One peer that reads nothing costs a bounded queue, then its connection; the others notice nothing."""
    a, b = await world.online("a"), await world.online("b")
    deaf = Deaf(world, await world.caller("deaf").token())
    world.at_end(deaf.socket.close)
    await a.hear("peer_joined")
    await b.hear("peer_joined")
    sent: dict[str, Any] = {"sdp": "x" * 16_000}
    gone = asyncio.create_task(b.hear("peer_left"))
    count = 0
    while not gone.done():  # kernel buffers of both sides, then 1 MiB of queue
        await a.say("offer", "deaf", sent)
        count += 1
        assert count < 1000, "16 MB were taken for a socket that reads nothing"
        if count % 50 == 0:
            await a.say("offer", "a", {"sdp": "alive"})
            while json.loads(await asyncio.wait_for(a.socket.recv(), 20))["type"] != "offer":
                pass  # `peer_offline`, once the deaf one is gone
    assert await gone == {"peer_id": "deaf"}
    await until(lambda: len(world.server.registry.sockets._connections) == 2)
    with contextlib.suppress(ConnectionResetError):
        while await asyncio.to_thread(deaf.socket.recv, 1 << 20):
            pass  # what the kernels had taken already, then the end
    await a.say("offer", "b", {"sdp": "y"})
    assert await b.hear("offer") == {"sdp": "y"}


async def test_socket_that_reads_is_never_full(world: World) -> None:
    """The bound is on what waits, not on what a long-lived sidecar has been sent in all."""
    a, b = await world.online("a"), await world.online("b")
    await a.hear("peer_joined")
    for number in range(200):  # 3.2 MB
        await a.say("offer", "b", {"sdp": f"{number} " + "x" * 16_000})
        assert (await b.hear("offer"))["sdp"].startswith(f"{number} ")


async def test_two_hundred_sockets_join_at_once(world: World) -> None:
    """Everybody hears of everybody, by the list or by a join, and the joining storm closes nobody."""
    names = [f"p{i:03d}" for i in range(200)]
    sidecars = await asyncio.gather(*(world.sidecar(n) for n in names))

    async def seen(index: int) -> set[str]:
        mine = sidecars[index]
        heard = set((await mine.register())["peers"])
        while len(heard) < len(names) - 1:
            heard.add((await mine.hear("peer_joined"))["peer_id"])
        return heard

    everyone = await asyncio.gather(*(seen(i) for i in range(len(names))))
    assert all(heard == set(names) - {me} for heard, me in zip(everyone, names, strict=True))
    await asyncio.gather(*(s.say("offer", names[i - 1], {"sdp": s.peer_id}) for i, s in enumerate(sidecars)))
    got = await asyncio.gather(*(s.hear("offer") for s in sidecars))
    assert [o["sdp"] for o in got] == [*names[1:], names[0]]
