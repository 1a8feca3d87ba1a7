"""The tokens of a remote model reach every LangChain mode while the peer still writes, and cost nothing unheard."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core._api import LangChainBetaWarning
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tracers import BaseTracer
from langgraph.pregel import Pregel

from chatixia_langchain import Incoming, MeshTool
from chatixia_langchain.mesh.context import current_turn
from chatixia_langchain.testing import FakeMesh, ScriptedChat, ask_then_answer

from .conftest import Far, Writer, echo

WORDS = "one two three"
QUESTION: Any = {"messages": "go"}
THREAD: Any = {"configurable": {"thread_id": "T"}}


def asking(tool: MeshTool) -> Pregel:
    """An agent that asks `b`, and says what it said."""
    rule = ask_then_answer(tool.name, lambda q: {"message": q}, lambda r: f"it said {r}")
    return create_agent(ScriptedChat(rule=rule), [tool])


async def by_messages(tool: MeshTool) -> AsyncIterator[str]:
    async for message, about in asking(tool).astream(QUESTION, THREAD, stream_mode="messages"):
        if "chatixia:remote" in (about.get("tags") or ()):
            assert about["langgraph_node"] == "tools"
            yield message.text


async def by_custom(tool: MeshTool) -> AsyncIterator[str]:
    async for part in asking(tool).astream(QUESTION, THREAD, stream_mode="custom"):
        assert part["mesh_delta"]["peer"] == "b"
        yield part["mesh_delta"]["text"]


async def by_tools(tool: MeshTool) -> AsyncIterator[str]:
    # Alone, langgraph hands "tools" out at the end of a step; beside one of these two, at once.
    modes: Any = ["tools", "messages"]
    async for mode, part in asking(tool).astream(QUESTION, THREAD, stream_mode=modes):
        if mode == "tools" and part["event"] == "tool-output-delta":
            assert part["tool_call_id"].startswith("call-")
            yield part["delta"]


async def by_events(tool: MeshTool) -> AsyncIterator[str]:
    async for event in asking(tool).astream_events(QUESTION, THREAD, version="v2"):
        if event["event"] == "on_chat_model_stream" and event["name"] == "mesh:b":
            yield event["data"]["chunk"].text


async def by_custom_events(tool: MeshTool) -> AsyncIterator[str]:
    async for event in asking(tool).astream_events(QUESTION, THREAD, version="v2"):
        if event["event"] == "on_custom_event":
            assert event["name"] == "mesh_delta"
            yield event["data"]["text"]


async def by_events_of_the_tool_alone(tool: MeshTool) -> AsyncIterator[str]:
    async for event in tool.astream_events({"message": "go"}, version="v2"):
        if event["event"] == "on_chat_model_stream":
            yield event["data"]["chunk"].text


async def by_typed_events(tool: MeshTool) -> AsyncIterator[str]:
    """v3 of the events, which is experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LangChainBetaWarning)
        run: Any = asking(tool).astream_events(QUESTION, THREAD, version="v3")
        run = await run if asyncio.iscoroutine(run) else run
        async for part in run:
            event, about = part["params"]["data"] if part["method"] == "messages" else ({}, {})
            if event.get("event") == "content-block-delta" and about["langgraph_node"] == "tools":
                yield event["delta"]["text"]


class Tokens(BaseCallbackHandler):
    """A plain handler, as every LangChain user writes one."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[str | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def on_llm_new_token(self, token: str, *, tags: list[str] | None = None, **_: Any) -> None:
        if "chatixia:remote" in (tags or ()):
            self._loop.call_soon_threadsafe(self.heard.put_nowait, token)


class AsyncTokens(AsyncCallbackHandler):
    """The same for custom events."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[str | None] = asyncio.Queue()

    async def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        assert name == "mesh_delta"
        self.heard.put_nowait(data["text"])


async def _by_handler(handler: Any, run: Any) -> AsyncIterator[str]:
    task = asyncio.create_task(run)
    task.add_done_callback(lambda _: handler.heard.put_nowait(None))
    while (token := await handler.heard.get()) is not None:
        yield token
    await task


def by_callback(tool: MeshTool) -> AsyncIterator[str]:
    handler = Tokens()
    return _by_handler(handler, asking(tool).ainvoke(QUESTION, {**THREAD, "callbacks": [handler]}))


def by_async_callback(tool: MeshTool) -> AsyncIterator[str]:
    handler = AsyncTokens()
    return _by_handler(handler, asking(tool).ainvoke(QUESTION, {**THREAD, "callbacks": [handler]}))


def by_callback_in_a_thread(tool: MeshTool) -> AsyncIterator[str]:
    handler = Tokens()
    config: Any = {**THREAD, "callbacks": [handler]}
    return _by_handler(handler, asyncio.to_thread(asking(tool).invoke, QUESTION, config))


WAYS = [
    by_messages,
    by_custom,
    by_tools,
    by_events,
    by_custom_events,
    by_typed_events,
    by_events_of_the_tool_alone,
    by_callback,
    by_async_callback,
    by_callback_in_a_thread,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda w: w.__name__)
async def test_tokens_are_seen_while_the_peer_writes(far: Far, way: Callable[[MeshTool], AsyncIterator[str]]) -> None:
    """The peer goes on past its first word only when that was seen here."""
    writer = Writer()
    await far.serve(writer.__call__)
    heard = ""
    async for token in way(MeshTool(far.a, peer="b")):
        heard += token
        if token:
            writer.go.set()
    assert heard == WORDS
    assert far.asked[0].stream


async def test_a_sync_graph_streams_too(far: Far) -> None:
    writer = Writer()
    await far.serve(writer.__call__)
    loop = asyncio.get_running_loop()

    def read() -> str:
        heard = ""
        for part in asking(MeshTool(far.a, peer="b")).stream(QUESTION, THREAD, stream_mode="custom"):
            heard += part["mesh_delta"]["text"]
            loop.call_soon_threadsafe(writer.go.set)
        return heard

    assert await asyncio.to_thread(read) == WORDS


class Tracer(BaseTracer):
    """As LangSmith's: it is always there, and wants no tokens."""

    def _persist_run(self, run: Any) -> None:
        self.run = run


async def test_nobody_listens_and_nothing_is_streamed(far: Far) -> None:
    """`invoke` of an agent, a tool alone, tracers and usage counters: a plain ask."""
    await far.serve(echo)
    tool = MeshTool(far.a, peer="b")
    tracer = Tracer()
    await tool.ainvoke({"message": "1"})
    await tool.ainvoke({"message": "2"}, {"callbacks": [tracer, UsageMetadataCallbackHandler()]})
    await asking(tool).ainvoke(QUESTION, THREAD)
    async for _ in asking(tool).astream(QUESTION, THREAD, stream_mode="updates"):
        pass
    assert len(far.asked) == 3, "the fourth has the id of the third"
    assert not any(m.stream for m in far.asked)
    (model,) = tracer.run.child_runs
    assert (model.name, model.run_type, model.tags) == ("mesh:b", "llm", ["chatixia:remote"])


async def test_lost_chunks_cost_no_text() -> None:
    """The wire loses frames for good, chunks among them: the text is whole all the same, and in order."""
    words = [f"w{n} " for n in range(60)]

    async def writes(message: Incoming) -> str:
        for word in words:
            await message.chunk(word, 0)
            await asyncio.sleep(0.001)
        return "".join(words)

    lost = 0
    for seed in range(3):
        async with FakeMesh("a", peers={"b": writes}, loss=0.2, silent=True, seed=seed) as mesh:
            heard = [t async for t in by_messages(MeshTool(mesh, peer="b")) if t]
            assert "".join(heard) == "".join(words)
            lost += mesh.wire.lost
    assert lost


async def test_each_step_of_the_peer_is_one_run_and_usage_counts_once(far: Far) -> None:
    async def steps(message: Incoming) -> str:
        turn = current_turn.get()
        assert turn is not None
        turn.spent.add_model("m", 3, 4)
        await message.chunk("looking", 0)
        await message.chunk("found", 1)
        return "found"

    await far.serve(steps)
    usage, tool = UsageMetadataCallbackHandler(), MeshTool(far.a, peer="b")
    events = [e async for e in tool.astream_events({"message": "x"}, {"callbacks": [usage]}, version="v2")]
    ends = [e["data"]["output"] for e in events if e["event"] == "on_chat_model_end"]
    assert [m.text for m in ends] == ["looking", "found"]
    assert len({m.id for m in ends}) == 2
    assert usage.usage_metadata == {"mesh:b": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}}
    call = {"type": "tool_call", "name": tool.name, "args": {"message": "x"}, "id": "c1"}
    assert (await tool.ainvoke(call)).artifact["usage"] == {
        "turns": 1,
        "models": {"m": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}},
    }


async def test_a_failure_in_the_middle_is_an_error_result_and_ends_the_run(far: Far) -> None:
    async def breaks(message: Incoming) -> str:
        await message.chunk("one ", 0)
        raise RuntimeError("inside")

    await far.serve(breaks)
    tool, failed = MeshTool(far.a, peer="b"), []

    class Errors(Tokens):
        def on_llm_error(self, error: BaseException, **_: Any) -> None:
            failed.append(str(error))

    call = {"type": "tool_call", "name": tool.name, "args": {"message": "x"}, "id": "c1"}
    result = await tool.ainvoke(call, {"callbacks": [Errors()]})
    assert result.status == "error"
    assert result.content.startswith("[handler_failed]")
    assert len(failed) == 1


@pytest.mark.parametrize("way", [by_messages, by_events, by_events_of_the_tool_alone], ids=lambda w: w.__name__)
async def test_closing_the_callers_stream_cancels_the_peers_run(far: Far, way: Any) -> None:
    await far.serve(Writer().__call__)  # it never gets beyond the first word
    stream = way(MeshTool(far.a, peer="b"))
    async for token in stream:
        if token:
            break
    await stream.aclose()
    await asyncio.wait_for(far.cancelled.wait(), 10)


async def test_a_global_cache_answers_nothing_for_a_peer(far: Far) -> None:
    await far.serve(echo)
    set_llm_cache(InMemoryCache())
    try:
        for _ in range(2):
            await MeshTool(far.a, peer="b").ainvoke({"message": "x"}, {"callbacks": [Tokens()]})
    finally:
        set_llm_cache(None)
    assert len(far.asked) == 2


async def test_tokens_of_one_tool_call_stay_with_it(far: Far) -> None:
    """Two calls side by side in one step: each delta carries the id of its own call."""

    async def named(message: Incoming) -> str:
        for word in (message.content, "-", message.content):
            await message.chunk(word, 0)
            await asyncio.sleep(0)
        return f"{message.content}-{message.content}"

    await far.serve(named)
    tool = MeshTool(far.a, peer="b")
    calls = [{"name": tool.name, "args": {"message": x}, "id": f"id-{x}", "type": "tool_call"} for x in "pq"]

    def rule(messages: Any, _: Any) -> Any:
        return "done" if isinstance(messages[-1], ToolMessage) else AIMessage("", tool_calls=calls)

    agent = create_agent(ScriptedChat(rule=rule), [tool])
    told: dict[str, str] = {}
    async for part in agent.astream(QUESTION, THREAD, stream_mode="tools"):
        if part["event"] == "tool-output-delta":
            told[part["tool_call_id"]] = told.get(part["tool_call_id"], "") + part["delta"]
    assert told == {"id-p": "p-p", "id-q": "q-q"}
