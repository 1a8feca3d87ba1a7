"""Replies that are read while they are written, over memory: order, steps, loss, errors, leaving early."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from chatixia_langchain import Incoming, Mesh, ReplyChunk
from chatixia_langchain.errors import Cancelled, MeshClosed, MeshTimeout, PeerUnreachable, RemoteError

from .members import Members, echo

Handler = Callable[[Incoming], Awaitable[None]]


async def pair(members: Members, handler: Handler) -> tuple[Mesh, Mesh]:
    """a asks, b answers with `handler`."""
    a, b = await members.join("a"), await members.join("b")
    members.serve(b, handler)
    return a, b


async def words(incoming: Incoming) -> None:
    """Say "one two three " word by word, giving others a turn between."""
    for word in ("one ", "two ", "three "):
        await incoming.chunk(word)
        await asyncio.sleep(0)
    await incoming.reply("one two three ")


def text(chunks: list[ReplyChunk]) -> str:
    """The text of the last step."""
    last = max((c.step for c in chunks), default=0)
    return "".join(c.text for c in chunks if c.step == last)


async def test_the_first_chunk_is_read_before_the_peer_is_done(members: Members) -> None:
    go_on = asyncio.Event()

    async def slow(incoming: Incoming) -> None:
        assert incoming.stream
        await incoming.chunk("first ")
        await go_on.wait()  # would never end if the reader had to wait for the reply
        await incoming.reply("first last", meta={"usage": {"turns": 1}})

    a, _ = await pair(members, slow)
    stream = a.ask_stream("b", "x")
    assert await asyncio.wait_for(anext(stream), 5) == ReplyChunk("first ", 0)
    go_on.set()
    assert [c async for c in stream] == [ReplyChunk("last", 0)]
    reply = await stream.reply()
    assert (reply.content, reply.usage.turns, reply.path) == ("first last", 1, "memory")


async def test_steps_are_kept_apart(members: Members) -> None:
    async def two_steps(incoming: Incoming) -> None:
        await incoming.chunk("let me ", step=0)
        await incoming.chunk("look", step=0)
        await incoming.chunk("it is ", step=2)
        await incoming.reply("it is 4")

    a, _ = await pair(members, two_steps)
    chunks = [c async for c in a.ask_stream("b", "x")]
    assert "".join(c.text for c in chunks if c.step == 0) == "let me look"
    assert "".join(c.text for c in chunks if c.step == 2) == "it is 4"


async def test_an_ask_gets_no_chunks_and_a_peer_without_chunks_gives_one(members: Members) -> None:
    seen: list[bool] = []

    async def handler(incoming: Incoming) -> None:
        seen.append(incoming.stream)
        await incoming.chunk("re:")
        await echo(incoming)
        await incoming.chunk("too late")

    a, b = await pair(members, handler)
    assert (await a.ask("b", "plain")).content == "re:plain"
    async with a.ask_stream("b", "streamed") as stream:
        assert text([c async for c in stream]) == "re:streamed"
    assert seen == [False, True]
    assert (await b.status())["counters"]["chunks_sent"] == 1
    members.serve(await members.join("c"), echo)
    assert [c async for c in a.ask_stream("c", "x")] == [ReplyChunk("re:x", 0)]


async def test_lost_chunks_are_made_up_for_by_the_reply(members: Members) -> None:
    members.hub.lose = lambda _from, _to, body: b'"chunk":"two ' in body
    a, _ = await pair(members, words)
    chunks = [c async for c in a.ask_stream("b", "x")]
    assert text(chunks) == "one two three "
    assert chunks[0].text == "one "
    assert "three" not in chunks[0].text


async def test_leaving_early_cancels_the_remote_run(members: Members) -> None:
    """By `aclose`, by the end of the block, by dropping the object, and by closing a read that waits."""
    cancelled = asyncio.Event()

    async def endless(incoming: Incoming) -> None:
        await incoming.chunk("on and on")
        await incoming.cancelled.wait()
        cancelled.set()

    async def close(stream: Any) -> None:
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        with pytest.raises(Cancelled):
            await stream.reply()

    async def block(stream: Any) -> None:
        async with stream:
            pass

    async def drop(stream: Any) -> None:
        assert stream._reading._task is not None  # nobody but the caller's variable holds it

    async def close_while_reading(stream: Any) -> None:
        reading = asyncio.create_task(anext(stream, None))
        await asyncio.sleep(0)
        await stream.aclose()
        assert await asyncio.wait_for(reading, 5) is None

    a, _ = await pair(members, endless)
    for leave in (close, block, drop, close_while_reading):
        cancelled.clear()
        stream = a.ask_stream("b", "x")
        assert (await anext(stream)).text == "on and on"
        await leave(stream)
        del stream
        gc.collect()
        await asyncio.wait_for(cancelled.wait(), 5)
    assert (await a.status())["queues"]["pending"] == 0


async def test_a_cancelled_read_loses_nothing_and_leaves_the_stream_open(members: Members) -> None:
    go_on = asyncio.Event()

    async def handler(incoming: Incoming) -> None:
        await go_on.wait()
        await incoming.chunk("still ")
        await incoming.reply("still here")

    a, _ = await pair(members, handler)
    async with a.ask_stream("b", "x") as stream:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(stream)
        go_on.set()
        assert text([c async for c in stream]) == "still here"


async def test_a_stream_has_one_reader_at_a_time(members: Members) -> None:
    """The second is told so, and spoils nothing for the first."""
    go_on = asyncio.Event()

    async def handler(incoming: Incoming) -> None:
        await go_on.wait()
        await words(incoming)

    a, _ = await pair(members, handler)
    async with a.ask_stream("b", "x") as stream:
        first = asyncio.create_task(anext(stream))
        await asyncio.sleep(0.01)
        with pytest.raises(RuntimeError, match="one reader"):
            await anext(stream)
        go_on.set()
        assert text([await first, *[c async for c in stream]]) == "one two three "


async def test_errors_of_ask_are_raised_from_the_iteration_once(members: Members) -> None:
    async def failing(incoming: Incoming) -> None:
        await incoming.chunk("so far ")
        await asyncio.sleep(0)
        await incoming.fail(RemoteError("broke", code="handler_failed"))

    a, _ = await pair(members, failing)
    stream = a.ask_stream("b", "x")
    assert (await anext(stream)).text == "so far "
    with pytest.raises(RemoteError, match="broke"):
        await anext(stream)
    assert [c async for c in stream] == []
    with pytest.raises(RemoteError, match="broke"):
        await stream.reply()
    for peer, options, error in [
        ("b", {"message_id": "not an id"}, ValueError),
        ("nobody", {"timeout": 0.2}, (PeerUnreachable, MeshTimeout)),
        ("b", {"no_such_option": 1}, TypeError),
    ]:
        with pytest.raises(error):  # type: ignore[call-overload]
            await anext(a.ask_stream(peer, "x", **options))  # type: ignore[arg-type]
    with pytest.raises(MeshClosed):
        Mesh("z", transport="memory").ask_stream("b", "x")


async def test_closing_the_mesh_ends_its_streams(members: Members) -> None:
    a, _ = await pair(members, lambda i: i.cancelled.wait())  # type: ignore[arg-type,return-value]
    reading = asyncio.create_task(anext(a.ask_stream("b", "x")))
    await asyncio.sleep(0.01)
    await a.aclose()
    with pytest.raises(MeshClosed):
        await asyncio.wait_for(reading, 5)
