"""The same streamed asks over every transport: sidecars, aiortc, memory; and the mailbox, which has only replies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from chatixia_langchain import Incoming, LocalMesh, Mesh, Usage
from chatixia_langchain.mesh.context import Turn, current_turn
from chatixia_langchain.mesh.stream import ReplyStream

from .conftest import sidecar_binary, sidecar_of, until

WORDS = [f"word{n} " for n in range(200)]
Handler = Callable[[Incoming], Awaitable[None]]
Serve = Callable[[Mesh, Handler], None]


@pytest.fixture(params=["memory", pytest.param("sidecar", marks=pytest.mark.sidecar), "aiortc", "mailbox"])
async def anyhow(request: pytest.FixtureRequest) -> AsyncIterator[LocalMesh]:
    """A mesh over each transport."""
    settings = {"sidecar_binary": sidecar_binary()} if request.param == "sidecar" else {}
    async with LocalMesh(transport=request.param, **settings) as mesh:
        yield mesh


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """`serve(mesh, handler)` runs the handler for each message; an error in one is an error of the test."""
    tasks: list[asyncio.Task[None]] = []

    async def loop(mesh: Mesh, handler: Handler) -> None:
        async with asyncio.TaskGroup() as group:
            async for incoming in mesh.incoming():
                group.create_task(handler(incoming))  # type: ignore[arg-type]

    yield lambda mesh, handler: tasks.append(asyncio.create_task(loop(mesh, handler)))
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert not [r for r in results if isinstance(r, Exception)]


async def read(stream: ReplyStream) -> dict[int, str]:
    """The text of each step."""
    steps: dict[int, str] = {}
    async for chunk in stream:
        steps[chunk.step] = steps.get(chunk.step, "") + chunk.text
    return steps


async def speak(incoming: Incoming) -> None:
    """Two steps, word by word."""
    await incoming.chunk("let me look", step=0)
    for word in WORDS:
        await incoming.chunk(word, step=1)
        await asyncio.sleep(0)
    await incoming.reply("".join(WORDS), meta={"usage": Usage(turns=1).to_json()})


async def test_a_streamed_ask(anyhow: LocalMesh, serve: Serve) -> None:
    a, b = await anyhow.join("a"), await anyhow.join("b")
    serve(b, speak)
    await a.wait_for_peer("b")
    async with a.ask_stream("b", "x", timeout=30) as stream:
        steps = await read(stream)
        reply = await stream.reply()
    assert reply.content == "".join(WORDS)
    assert reply.usage.turns == 1
    if reply.path == "mailbox":
        assert steps == {0: reply.content}
    else:
        assert steps == {0: "let me look", 1: reply.content}
        assert (await b.status())["counters"]["chunks_sent"] >= 2


async def test_the_first_word_is_read_while_the_peer_still_writes(anyhow: LocalMesh, serve: Serve) -> None:
    """The peer goes on only when its first word was read; over the mailbox nothing is there to read yet."""
    go_on = asyncio.Event()

    async def waits(incoming: Incoming) -> None:
        await incoming.chunk("first ")
        await go_on.wait()
        await incoming.reply("first last")

    a, b = await anyhow.join("a"), await anyhow.join("b")
    serve(b, waits)
    await a.wait_for_peer("b")
    async with a.ask_stream("b", "x", timeout=30) as stream:
        if a.transport_name == "mailbox":
            await until(lambda: a.peers["b"].path == "mailbox")
        else:
            assert (await asyncio.wait_for(anext(stream), 20)).text == "first "
        go_on.set()
        await read(stream)
        assert (await stream.reply()).content == "first last"


async def test_leaving_early_cancels_the_remote_run(anyhow: LocalMesh, serve: Serve) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def endless(incoming: Incoming) -> None:
        started.set()
        await incoming.chunk("on and on")
        await incoming.cancelled.wait()
        cancelled.set()

    a, b = await anyhow.join("a"), await anyhow.join("b")
    serve(b, endless)
    await a.wait_for_peer("b")
    async with a.ask_stream("b", "x", timeout=60):
        await asyncio.wait_for(started.wait(), 20)
    await asyncio.wait_for(cancelled.wait(), 10)


async def test_a_chain_of_three_carries_budget_and_brings_usage_back(anyhow: LocalMesh, serve: Serve) -> None:
    a, b, c = [await anyhow.join(name) for name in "abc"]
    seen: list[Incoming] = []

    async def middle(incoming: Incoming) -> None:
        turn = Turn.of(incoming)
        current_turn.set(turn)
        seen.append(incoming)
        answer = await b.ask("c", incoming.content)
        turn.spent.add_model("m", 10, 5)
        await incoming.reply(f"b: {answer.content}", meta={"usage": turn.spent.to_json()})

    async def last(incoming: Incoming) -> None:
        turn = Turn.of(incoming)
        seen.append(incoming)
        turn.spent.add_model("n", 1, 2)
        await incoming.reply("c", meta={"usage": turn.spent.to_json()})

    serve(b, middle)
    serve(c, last)
    await asyncio.gather(a.wait_for_peer("b"), b.wait_for_peer("c"))
    reply = await a.ask("b", "x", timeout=30)
    assert reply.content == "b: c"
    assert reply.usage.total()["total_tokens"] == 18
    assert reply.usage.all_turns() == 2
    assert reply.usage.peers["c"].models["n"]["output_tokens"] == 2
    first, second = seen
    assert (second.hops, second.chain) == (1, ("b",))
    assert second.budget is not None
    assert (second.budget.root, second.budget.turns) == (first.message_id, 19)
    assert second.trace[3:35] == first.trace[3:35]
    assert second.ttl_s < first.ttl_s


@pytest.mark.sidecar
@pytest.mark.parametrize("whose", ["asker", "answerer"])
async def test_a_channel_that_dies_in_the_middle_costs_chunks_and_no_text(
    local: LocalMesh, serve: Serve, whose: str
) -> None:
    """Chunks are never sent again: what the dead channel took along comes with the reply."""
    read_some, died = asyncio.Event(), asyncio.Event()

    async def through_it(incoming: Incoming) -> None:
        for word in WORDS[:50]:
            await incoming.chunk(word)
        await read_some.wait()
        await died.wait()
        for word in WORDS[50:150]:
            await incoming.chunk(word)
            await asyncio.sleep(0.01)
        await incoming.reply("".join(WORDS))

    a, b = await local.join("a"), await local.join("b")
    serve(b, through_it)
    await a.wait_for_peer("b")
    async with a.ask_stream("b", "x", timeout=60) as stream:
        got = (await asyncio.wait_for(anext(stream), 20)).text
        read_some.set()
        os.kill(sidecar_of(a if whose == "asker" else b).sidecar_pid, signal.SIGKILL)
        await until(lambda: a.peers["b"].state != "connected" or b.peers["a"].state != "connected")
        died.set()
        async for chunk in stream:
            assert chunk.step == 0
            got += chunk.text
        assert got == (await stream.reply()).content == "".join(WORDS)
