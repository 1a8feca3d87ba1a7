"""What every transport owes, asked of each of them over real processes, sockets and channels."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
from typing import Any

import pytest

from chatixia_langchain.errors import Busy, InvalidLine, LinkDown, MessageTooBig, PeerUnreachable
from chatixia_langchain.transport.base import LinkState

from .conftest import Member, World


def frame(text: str, **more: Any) -> bytes:
    """One message with `text` in it."""
    return json.dumps({"type": "agent_prompt", "payload": {"message": text}} | more, ensure_ascii=False).encode()


async def test_messages_arrive_in_order_and_byte_exact(world: World) -> None:
    a, b = await world.pair()
    sent = [frame(f"n{n}") for n in range(200)]
    sent += [
        frame(t) for t in ("gr\u00fc\u00df dich \u4f60\u597d \U0001f30a \u2028", '}},"x":{"y":"\\', "\u0000\n\t", "")
    ]
    sent += [b'{ "spaced" : [ 1.0 , 1e3 , true ] , "k" : "\\u00e4\\/" }', frame("x" * 65_536), frame("last")]
    await a.send_all(b.name, sent)
    await b.until(lambda: len(b.bodies(a.name)) >= len(sent))
    assert b.bodies(a.name) == sent
    back = [frame(f"back {n}") for n in range(50)]
    if not b.ups(a.name):
        await b.transport.connect(a.name)
    await b.send_all(a.name, back)
    await a.until(lambda: len(a.bodies(b.name)) >= len(back))
    assert a.bodies(b.name) == back


async def test_largest_message_arrives_and_one_byte_more_is_refused(world: World) -> None:
    a, b = await world.pair()
    limit = a.ups(b.name)[-1].max_message_bytes
    assert limit >= 65_535
    body = b'{"x":"' + b"y" * (limit - 8) + b'"}'
    assert len(body) == limit
    a.transport.send(b.name, body)
    await b.until(lambda: b.bodies(a.name))
    assert b.bodies(a.name) == [body]
    with pytest.raises(MessageTooBig) as refusal:
        a.transport.send(b.name, body + b" ")
    assert (refusal.value.size, refusal.value.limit) == (limit + 1, limit)


async def test_unknown_peer_is_unreachable_and_nothing_was_sent(world: World) -> None:
    a = await world.make(0).start()
    with pytest.raises(PeerUnreachable):
        a.transport.send("nobody-at-all", frame("x"))
    with pytest.raises(PeerUnreachable) as refusal:
        await a.transport.connect("nobody-at-all", timeout_s=5)
    assert refusal.value.executed == "no"
    assert refusal.value.peer == "nobody-at-all"


@pytest.mark.parametrize("bad", [b'{"a":1}\n{"type":"send"}', b'{"a":1}\r', b'{"a":"\n"}'])
async def test_a_body_that_could_forge_lines_is_refused(world: World, bad: bytes) -> None:
    a, b = await world.pair()
    with pytest.raises(InvalidLine):
        a.transport.send(b.name, bad)
    a.transport.send(b.name, frame("fine"))
    await b.until(lambda: b.bodies(a.name))
    assert b.bodies(a.name) == [frame("fine")]


async def test_leaving_is_seen_and_sends_fail_from_then_on(world: World) -> None:
    a, b = await world.pair()
    up = a.ups(b.name)[-1]
    await b.transport.aclose()
    await a.until(lambda: a.downs(b.name))
    assert a.downs(b.name)[-1].generation == up.generation
    with pytest.raises(PeerUnreachable):
        a.transport.send(b.name, frame("too late"))


async def test_concurrent_connects_share_one_channel_and_one_may_be_cancelled(world: World) -> None:
    a, b = await world.two()
    dials = [asyncio.create_task(a.transport.connect(b.name)) for _ in range(6)]
    await asyncio.sleep(0)
    dials[0].cancel()
    await asyncio.gather(*dials[1:])
    await a.transport.connect(b.name)
    assert len(a.ups(b.name)) == 1


async def test_both_dial_at_once_and_end_with_a_channel_that_works(world: World) -> None:
    a, b = await world.two()
    await asyncio.gather(a.transport.connect(b.name), b.transport.connect(a.name))
    for me, other in ((a, b), (b, a)):
        await other.until(lambda me=me, other=other: len(other.ups(me.name)) > len(other.downs(me.name)))  # type: ignore[misc]
        async with asyncio.timeout(10):
            while frame("hi") not in other.bodies(me.name):
                try:
                    me.transport.send(other.name, frame("hi"))
                except PeerUnreachable:
                    await asyncio.sleep(0.05)
                    continue
                await asyncio.sleep(0.05)


async def test_a_full_window_is_busy_and_then_writable(world: World) -> None:
    a, b = await world.pair()
    body = frame("y" * 60_000)
    sent = 0
    with pytest.raises(Busy) as refusal:  # noqa: PT012  (the number of sends that fit is what is asked)
        for _ in range(10_000):
            a.transport.send(b.name, body)
            sent += 1
    assert refusal.value.executed == "no"
    assert sent >= 4, "a window that takes next to nothing"
    await asyncio.wait_for(a.transport.writable(b.name), 20)
    a.transport.send(b.name, frame("last"))
    await b.until(lambda: frame("last") in b.bodies(a.name))
    assert b.bodies(a.name) == [body] * sent + [frame("last")], "Busy means: not taken; all else arrives"


async def test_writable_returns_when_the_peer_is_gone(world: World) -> None:
    a, b = await world.pair()
    with pytest.raises(Busy):  # noqa: PT012
        for _ in range(10_000):
            a.transport.send(b.name, frame("y" * 60_000))
    waiting = asyncio.create_task(a.transport.writable(b.name))
    await b.transport.aclose()
    await asyncio.wait_for(waiting, 20)


async def test_disconnect_is_seen_by_both_and_a_new_connect_works(world: World) -> None:
    a, b = await world.pair()
    await a.transport.disconnect(b.name)
    await a.until(lambda: a.downs(b.name))
    with pytest.raises(PeerUnreachable):
        a.transport.send(b.name, frame("x"))
    if world.kinds[0] != "mailbox":  # no channel there: the other side has nothing to lose
        await b.until(lambda: b.downs(a.name))
    await a.transport.connect(b.name)
    assert len(a.ups(b.name)) == 2
    a.transport.send(b.name, frame("again"))
    await b.until(lambda: b.bodies(a.name))


async def test_presence_is_told_to_who_was_there_before_and_after(world: World) -> None:
    a = await world.make(0).start()
    b = await world.make(1).start()
    await a.until(lambda: b.name in a.joined())
    await b.until(lambda: a.name in b.joined())
    await b.transport.aclose()
    await a.until(lambda: b.name in a.left())


async def test_status_is_plain_json_and_names_the_path(world: World) -> None:
    a, b = await world.pair()
    status = json.loads(json.dumps(await a.transport.status()))
    assert status["peers"][b.name]["state"] == "open"
    assert status["peers"][b.name]["path"] in (
        "memory",
        "mailbox",
        "host/host",
        "host/prflx",
        "prflx/host",
        "prflx/prflx",
    )
    assert isinstance(a.events[0], LinkState)
    assert a.events[0].up


async def test_nothing_is_left_after_aclose_and_no_event_comes(world: World) -> None:
    before = set(asyncio.all_tasks())
    fds, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    members: list[Member] = list(await world.pair())
    await members[0].send_all(members[1].name, [frame("x" * 1000)] * 100)
    for member in members:
        await asyncio.gather(member.transport.aclose(), member.transport.aclose())
        await member.transport.aclose()
    counts = [len(m.events) for m in members]
    await asyncio.sleep(0.3)
    assert [len(m.events) for m in members] == counts
    with pytest.raises((LinkDown, PeerUnreachable)):
        members[0].transport.send(members[1].name, frame("x"))
    gc.collect()
    assert set(asyncio.all_tasks()) <= before | {asyncio.current_task()}
    assert len(os.listdir("/proc/self/fd")) <= fds + 1  # a thread pool of asyncio may keep one
    assert threading.active_count() <= threads + 2
