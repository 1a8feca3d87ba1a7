"""Streamed replies at the edges: full windows, slow readers, other loops and threads, hostile and old peers."""

from __future__ import annotations

import asyncio
import contextvars
import json
from typing import Any

import pytest

from chatixia_langchain import Incoming, ReplyChunk

from .members import Members, echo
from .test_doors import in_thread
from .test_holes import RawPeer, reply
from .test_holes import raw as raw
from .test_stream import pair, text, words


async def test_a_full_window_makes_chunks_wait_and_merge(members: Members) -> None:
    """The transport takes no more: text waits, bounded, and goes as few frames once there is room."""
    a, b = await members.join("a"), await members.join("b")
    stream = a.ask_stream("b", "x", timeout=20)
    await stream.__aenter__()
    incoming = await b.incoming().__anext__()
    filler = "f" * 200_000  # five of them leave room for some hundred small frames in the transport's window
    receipts = [b.send_nowait("a", filler) for _ in range(5)]
    for number in range(3_000):
        await incoming.chunk(f"word {number} ")  # never waits: nothing of this has left when the loop gets its turn
    whole = "".join(f"word {number} " for number in range(3_000))
    got = ""
    async for chunk in stream:
        got += chunk.text
        if len(got) == len(whole):
            break
    assert got == whole
    assert (await b.status())["counters"]["chunks_sent"] < 1_000
    await incoming.reply(whole)
    assert (await stream.reply()).content == whole
    assert [(await r.delivered()).state for r in receipts] == ["delivered"] * 5


async def test_a_slow_reader_gets_large_chunks_and_all_of_it(members: Members) -> None:
    async def fast(incoming: Incoming) -> None:
        for _ in range(2_000):
            await incoming.chunk("x" * 100)
        await incoming.reply("x" * 200_000)

    a, _ = await pair(members, fast)
    async with a.ask_stream("b", "x") as stream:
        await asyncio.sleep(0.3)  # the reply is there, nothing was read
        chunks = [c async for c in stream]
    assert sum(len(c.text) for c in chunks) == 200_000
    assert len(chunks) < 100


async def test_streams_work_from_another_loop_and_by_the_sync_door(members: Members) -> None:
    a, _ = await pair(members, words)

    async def elsewhere() -> str:
        stream = a.ask_stream("b", "x")
        got = [c async for c in stream]
        assert (await stream.reply()).content == "one two three "
        await stream.aclose()
        return text(got)

    def blocking() -> str:
        with a.sync.ask_stream("b", "x") as stream:
            got = text(list(stream))
            assert stream.reply.content == got
        stream.close()
        return got

    assert await in_thread(lambda: asyncio.run(elsewhere())) == "one two three "
    assert await in_thread(blocking) == "one two three "
    with pytest.raises(RuntimeError, match="await"):
        next(a.sync.ask_stream("b", "x"))


async def test_closing_in_another_thread_cancels_the_remote_run(members: Members) -> None:
    cancelled = asyncio.Event()

    async def endless(incoming: Incoming) -> None:
        await incoming.chunk("on")
        await incoming.cancelled.wait()
        cancelled.set()

    a, _ = await pair(members, endless)

    def blocking() -> None:
        for chunk in a.sync.ask_stream("b", "x"):
            assert chunk.text == "on"
            return  # the iterator is dropped here, in a thread without a loop

    await in_thread(blocking)
    await asyncio.wait_for(cancelled.wait(), 5)


async def test_chunks_come_in_order_from_another_loop(members: Members) -> None:
    """An agent that runs on a loop of its own writes without waiting for the mesh's."""
    a, b = await members.join("a"), await members.join("b")
    whole = "".join(f"{n} " for n in range(500))

    async def agent() -> None:
        incoming = await b.incoming().__anext__()
        for n in range(500):
            await incoming.chunk(f"{n} ")
        await incoming.reply(whole)

    serving = asyncio.ensure_future(in_thread(lambda: asyncio.run(agent())))
    assert text([c async for c in a.ask_stream("b", "x")]) == whole
    await serving
    assert (await b.status())["counters"]["chunks_sent"] >= 1


async def test_what_is_no_chunk_is_refused_to_whoever_wrote_it(members: Members) -> None:
    async def handler(incoming: Incoming) -> None:
        with pytest.raises(TypeError, match="int"):
            await incoming.chunk(5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="surrogates"):
            await incoming.chunk("\ud800")
        for step in (-1, True, "0"):
            with pytest.raises(ValueError, match="step"):
                await incoming.chunk("x", step=step)  # type: ignore[arg-type]
        await incoming.chunk("")
        await incoming.reply("fine")

    a, _ = await pair(members, handler)
    assert [c async for c in a.ask_stream("b", "x")] == [ReplyChunk("fine", 0)]


async def test_chunks_of_another_peer_and_chunks_nobody_asked_for_are_ignored(members: Members) -> None:
    """A chunk counts only from the peer that was asked: with the check off, `evil` writes into b's answer."""
    a, b, evil = await members.join("a"), await members.join("b"), await members.join("evil")
    members.serve(evil, echo)
    await a.ask("evil", "opens a channel")
    stream = a.ask_stream("b", "x", message_id="r1")
    await stream.__aenter__()
    incoming = await b.incoming().__anext__()
    payload = {"chunk": "forged", "step": 0, "at": 0}
    frame = {
        "type": "agent_stream_chunk",
        "payload": payload,
        "mesh": {"v": 1, "kind": "chunk", "corr": "r1", "seq": 1},
    }
    engine = evil._lifetime.engine
    assert engine is not None
    engine.core.transport.send("a", json.dumps(frame).encode())
    await asyncio.sleep(0.05)
    await incoming.reply("true")
    assert [c async for c in stream] == [ReplyChunk("true", 0)]
    assert (await a.status())["counters"]["chunks_late"] == 1


async def test_a_stream_belongs_to_the_context_that_asked(members: Members) -> None:
    """Who reads may be another task: the request carries what was current where it was made."""
    a, _ = await pair(members, words)
    mark: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="")
    mark.set("asker")
    stream = a.ask_stream("b", "x")
    mark.set("reader")
    assert stream._reading._context[mark] == "asker"
    assert text([c async for c in stream]) == "one two three "


async def test_an_old_agent_gives_its_answer_as_one_chunk(members: Members, raw: RawPeer) -> None:
    """It knows nothing of `mesh`: five fields go, five come back."""
    a = await members.join("a")
    async with a.ask_stream("raw", "x") as stream:
        request = await raw.hears("request")
        five = {
            "type": "agent_response",
            "request_id": request["request_id"],
            "source_agent": "raw",
            "target_agent": "a",
        }
        raw.say("a", {**five, "payload": {"response": "all at once", "error": ""}})
        assert [c async for c in stream] == [ReplyChunk("all at once", 0)]


async def test_a_peer_that_streams_nonsense_spoils_nothing(members: Members, raw: RawPeer) -> None:
    """Wrong types, far places, endless tiny steps and floods: bad frames are dropped, the rest is bounded."""
    a = await members.join("a")
    async with a.ask_stream("raw", "x") as stream:
        corr = (await raw.hears("request"))["mesh"]["id"]

        def chunk(**payload: Any) -> dict[str, Any]:
            return {"type": "agent_stream_chunk", "payload": payload, "mesh": {"v": 1, "kind": "chunk", "corr": corr}}

        wrong = [{"chunk": 1, "step": 0, "at": 0}, {"chunk": "x", "step": -1, "at": 0}, {"chunk": "x", "step": 0}, {}]
        for payload in wrong:
            raw.say("a", chunk(**payload))
        raw.say("a", chunk(chunk="far", step=0, at=2**53))
        for step in range(3_000):
            raw.say("a", chunk(chunk="x", step=step, at=0))
        for at in range(0, 600_000, 60_000):
            raw.say("a", chunk(chunk="y" * 60_000, step=9_999, at=at))
            await raw.transport.writable("a")
        assert len(stream._reading._text.out) <= 262_144 / 64
        raw.say("a", reply(corr, "the answer"))
        assert text([c async for c in stream]) == "the answer"
    assert (await a.status())["counters"]["bad_frames"] == len(wrong)


async def test_a_read_cancelled_in_another_loop_as_its_chunk_comes_loses_nothing(members: Members) -> None:
    """Between two loops a chunk may be on its way when its reader gives up: the next read gets it."""
    a, b = await members.join("a"), await members.join("b")
    stream = a.ask_stream("b", "x", timeout=30)
    await stream.__aenter__()
    incoming = await b.incoming().__anext__()
    await incoming.chunk("first ")
    await asyncio.sleep(0.05)
    assert (await stream._reading.next(0)) == ReplyChunk("first ")  # given, and lost with the loop that asked for it
    assert await anext(stream) == ReplyChunk("first ")
    await incoming.reply("first last")
    assert [c async for c in stream] == [ReplyChunk("last")]

    async def impatient() -> str:
        got = ""
        async with a.ask_stream("b", "y", timeout=30) as reads:
            while True:
                try:
                    got += (await asyncio.wait_for(anext(reads), 0.001)).text
                except TimeoutError:
                    continue
                except StopAsyncIteration:
                    return got

    reading = asyncio.ensure_future(in_thread(lambda: asyncio.run(impatient())))
    await words(await b.incoming().__anext__())
    assert await reading == "one two three "


async def test_text_that_still_waits_when_the_answer_is_given_is_not_sent(members: Members) -> None:
    """The reply has it: chunks behind it would only be in the way."""
    a, b = await members.join("a"), await members.join("b")
    stream = a.ask_stream("b", "x", timeout=20)
    await stream.__aenter__()
    incoming = await b.incoming().__anext__()
    for _ in range(5):
        b.send_nowait("a", "f" * 200_000)
    for number in range(3_000):
        await incoming.chunk(f"word {number} ")
    sent = (await b.status())["counters"]["chunks_sent"]
    await incoming.reply("done")
    assert (await stream.reply()).content == "done"
    assert (await b.status())["counters"]["chunks_sent"] == sent < 3_000
