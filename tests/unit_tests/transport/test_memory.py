"""The memory hub's own abilities: faults on demand, and members on different loops."""

from __future__ import annotations

import asyncio
import threading

import pytest

from chatixia_langchain.errors import Busy, LinkDown, PeerUnreachable
from chatixia_langchain.transport.base import PeerDown, PeerJoined, PeerLeft, PeerUp, Received, TransportEvent
from chatixia_langchain.transport.memory import MemoryHub


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_events_come_in_a_later_turn_and_generations_grow() -> None:
    hub, events = MemoryHub(), list[TransportEvent]()
    a, b = hub.transport("a"), hub.transport("b")
    await a.start(events.append)
    await b.start(lambda e: None)
    assert events == [], "never inside the call that causes them"
    await a.connect("b")
    hub.cut("a", "b")
    await turn()
    await b.connect("a")
    await turn()
    ups = [e.generation for e in events if isinstance(e, PeerUp)]
    assert len(ups) == 2
    assert ups[0] < ups[1]
    assert [e for e in events if isinstance(e, PeerDown)] == [PeerDown("b", ups[0], "cut")]
    await b.aclose()
    await turn()
    assert PeerJoined("b") in events
    assert events[-1] == PeerLeft("b")
    await a.aclose()


async def test_what_was_sent_before_a_cut_arrives_before_the_news_of_it() -> None:
    hub, events = MemoryHub(), list[TransportEvent]()
    a, b = hub.transport("a"), hub.transport("b")
    await a.start(lambda e: None)
    await b.start(events.append)
    await a.connect("b")
    a.send("b", b'{"n":1}')
    hub.cut("a", "b")
    with pytest.raises(PeerUnreachable):
        a.send("b", b'{"n":2}')
    await turn()
    assert [type(e) for e in events if isinstance(e, Received | PeerDown)] == [Received, PeerDown]
    await a.aclose()
    await b.aclose()


async def test_block_lose_and_a_name_that_is_taken() -> None:
    hub, events = MemoryHub(), list[TransportEvent]()
    a, b = hub.transport("a"), hub.transport("b")
    await a.start(lambda e: None)
    await b.start(events.append)
    hub.block("a", "b")
    with pytest.raises(PeerUnreachable, match="blocked"):
        await a.connect("b")
    hub.unblock("a", "b")
    await a.connect("b")
    hub.lose = lambda source, target, body: b"lost" in body
    a.send("b", b'{"x":"lost"}')
    a.send("b", b'{"x":"kept"}')
    await turn()
    assert [e.body for e in events if isinstance(e, Received)] == [b'{"x":"kept"}']
    with pytest.raises(LinkDown, match="already in this hub"):
        await hub.transport("a").start(lambda e: None)
    await a.aclose()
    await b.aclose()


async def test_members_on_loops_of_different_threads_reach_each_other() -> None:
    hub, got, seen_on = MemoryHub(), list[bytes](), set[int]()
    ready, stop = threading.Event(), threading.Event()

    def other() -> None:
        async def main() -> None:
            b = hub.transport("b")

            def sink(event: TransportEvent) -> None:
                seen_on.add(threading.get_ident())
                if isinstance(event, Received):
                    got.append(event.body)
                    if event.body == b'{"last":1}':
                        b.send("a", b'{"all":1}')

            await b.start(sink)
            ready.set()
            while not stop.is_set():
                await asyncio.sleep(0.005)
            await b.aclose()

        asyncio.run(main())

    thread = threading.Thread(target=other)
    thread.start()
    await asyncio.to_thread(ready.wait, 10)
    echoed = list[bytes]()
    a = hub.transport("a")
    await a.start(lambda e: echoed.append(e.body) if isinstance(e, Received) else None)
    await a.connect("b")
    sent = [b'{"n":%d,"x":"%s"}' % (n, b"y" * 2000) for n in range(2000)]  # more than one window
    sent.append(b'{"last":1}')
    for body in sent:
        try:
            a.send("b", body)
        except Busy:
            await asyncio.wait_for(a.writable("b"), 10)
            a.send("b", body)
    async with asyncio.timeout(20):
        while not echoed:
            await asyncio.sleep(0.005)
    assert got == sent
    assert echoed == [b'{"all":1}']
    assert seen_on == {thread.ident}
    stop.set()
    await asyncio.to_thread(thread.join, 10)
    await a.aclose()
