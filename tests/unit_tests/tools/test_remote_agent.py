"""A peer as a Runnable: every way to call it, what is sent, what comes back, and its place in chains and graphs."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, RetryPolicy, interrupt

from chatixia_langchain import Incoming, MeshError
from chatixia_langchain.mesh.context import current_turn
from chatixia_langchain.tools.remote_agent import RemoteAgent, question

from .conftest import Far, Writer, echo

CALL = AIMessage("", tool_calls=[{"name": "t", "args": {}, "id": "c", "type": "tool_call"}])


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("hi", "hi"),
        (HumanMessage("hi"), "hi"),
        ([("system", "be good"), ("human", "hi")], "hi"),
        ([("human", "old"), ("ai", "answered"), ("human", "new"), ("human", "er")], "new\n\ner"),
        ([("human", "q"), CALL, ToolMessage("r", tool_call_id="c")], "q"),
        ([("human", "q"), ("ai", "the plan")], "the plan"),
        ([("human", "q"), AIMessage("the plan", name="other"), ("human", "do it")], "do it"),
        ([("ai", "said here"), SystemMessage("x"), AIMessage("said there", name="other")], "said there"),
        (ChatPromptTemplate.from_messages([("system", "s"), ("human", "hi {x}")]).invoke({"x": "you"}), "hi you"),
        ({"messages": [("human", "hi")], "other": 1}, "hi"),
        ([HumanMessage([{"type": "text", "text": "see "}, {"type": "image", "url": "http://x"}])], "see "),
    ],
    ids=lambda g: repr(g)[:30],
)
def test_only_what_the_peer_needs_is_sent(given: Any, asked: str) -> None:
    assert question(given, "b") == asked


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ([], "nothing to ask 'b'"),
        ([("human", "q"), AIMessage("answered", name="b")], "nothing to ask 'b'"),
        ([("system", "only rules")], "nothing to ask 'b'"),
        ([HumanMessage([{"type": "image", "url": "http://x"}])], "nothing to ask 'b'"),
        ({"text": "x"}, "a state needs 'messages', this mapping has: text"),
    ],
    ids=lambda g: repr(g)[:30],
)
def test_an_input_without_a_question_is_named(given: Any, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        question(given, "b")


@pytest.mark.parametrize("given", [None, 5])
def test_what_is_no_input_is_named(given: Any) -> None:
    with pytest.raises(TypeError, match=f"the input is a {type(given).__name__}"):
        question(given, "b")


async def test_the_answer_is_a_message_of_the_peer(far: Far) -> None:
    async def uses(message: Incoming) -> str:
        turn = current_turn.get()
        assert turn is not None
        turn.spent.add_model("m", 3, 4)
        return "done"

    await far.serve(uses, "b.c")
    answer = await RemoteAgent(far.a, "b.c").ainvoke("x")
    assert (answer.text, answer.name) == ("done", "b_c"), "a name that providers take"
    assert answer.usage_metadata == {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    told = answer.response_metadata
    assert told["model_name"] == "mesh:b.c"
    assert told["mesh"] == json.loads(json.dumps(told["mesh"])), "checkpointers store it"
    assert (told["mesh"]["peer"], told["mesh"]["path"]) == ("b.c", "memory")
    assert told["mesh"]["usage"]["models"]["m"]["total_tokens"] == 7


async def test_a_thread_is_one_conversation_and_no_thread_is_a_new_one(far: Far) -> None:
    await far.serve(echo)
    agent = RemoteAgent(far.a, "b")
    for thread in ("T1", "T1", "T2", 7, 7):
        await agent.ainvoke("x", {"configurable": {"thread_id": thread}})
    for _ in range(2):
        await agent.ainvoke("x")
    talks = [m.conversation for m in far.asked]
    assert talks[0] == talks[1] != talks[2] != talks[3] == talks[4]
    assert len(set(talks)) == 5


async def test_the_stream_is_read_while_the_peer_writes(far: Far) -> None:
    writer = Writer("one ", "two ", "three")
    await far.serve(writer.__call__)
    chunks: list[AIMessageChunk] = []
    async for chunk in RemoteAgent(far.a, "b").astream("x"):
        assert isinstance(chunk, AIMessageChunk)
        chunks.append(chunk)
        writer.go.set()  # not before the first was seen
    assert chunks[0].content == "one "
    whole = sum(chunks[1:], chunks[0])
    assert (whole.text, {c.name for c in chunks}) == ("one two three", {"b"})
    assert whole.response_metadata["mesh"]["peer"] == "b"
    assert far.asked[0].stream


async def test_steps_have_ids_of_their_own_and_the_last_is_the_reply(far: Far) -> None:
    async def steps(message: Incoming) -> str:
        await message.chunk("let me ", 0)
        await message.chunk("look", 0)
        await message.chunk("it is 4", 1)
        return "it is 42"

    await far.serve(steps)
    by_id: dict[Any, str] = {}
    async for chunk in RemoteAgent(far.a, "b").astream("x"):
        by_id[chunk.id] = by_id.get(chunk.id, "") + chunk.content
    assert list(by_id.values()) == ["let me look", "it is 42"]


async def test_a_reply_that_does_not_continue_what_was_streamed_is_the_answer(far: Far) -> None:
    async def turncoat(message: Incoming) -> str:
        await message.chunk("yes, of co", 0)
        return "no"

    await far.serve(turncoat)
    agent = RemoteAgent(far.a, "b")
    by_id: dict[Any, str] = {}
    async for chunk in agent.astream("x"):
        by_id[chunk.id] = by_id.get(chunk.id, "") + chunk.content
    assert list(by_id.values())[-1] == "no"
    events = [e async for e in agent.astream_events("x", version="v2")]
    assert events[-2]["data"]["output"].text == "no"
    assert (await agent.ainvoke("x")).text == "no"


@pytest.mark.parametrize("way", ["break", "aclose", "cancel"])
async def test_leaving_a_stream_cancels_the_peers_run(far: Far, way: str) -> None:
    await far.serve(Writer().__call__)  # it never gets beyond the first word
    stream = RemoteAgent(far.a, "b").astream("x")
    if way == "cancel":
        seen = asyncio.Event()

        async def read(chunks: AsyncIterator[Any]) -> None:
            async for _ in chunks:
                seen.set()

        task = asyncio.create_task(read(stream))
        await seen.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    else:
        async for _ in stream:
            break
        if way == "aclose":
            await stream.aclose()  # type: ignore[attr-defined]
    del stream
    await asyncio.wait_for(far.cancelled.wait(), 10)


async def test_leaving_a_sync_stream_cancels_the_peers_run(far: Far) -> None:
    await far.serve(Writer().__call__)

    def read() -> str:
        stream = RemoteAgent(far.a, "b").stream("x")
        first = next(stream)
        stream.close()  # type: ignore[attr-defined]
        return str(first.content)

    assert await asyncio.to_thread(read) == "one "
    await asyncio.wait_for(far.cancelled.wait(), 10)


async def test_events_show_the_peers_model_inside_the_agents_run(far: Far) -> None:
    writer = Writer()
    await far.serve(writer.__call__)
    seen: list[tuple[str, str]] = []
    tokens, deltas = "", ""
    async for event in RemoteAgent(far.a, "b", name="researcher").astream_events("x", version="v2"):
        seen.append((event["event"], event["name"]))
        if event["event"] == "on_chat_model_stream":
            assert event["tags"] == ["chatixia:remote"]
            tokens += event["data"]["chunk"].content
            writer.go.set()
        if event["event"] == "on_custom_event":
            assert event["name"] == "mesh_delta"
            deltas += event["data"]["text"]
    assert seen[0] == ("on_chain_start", "researcher")
    assert seen[-1] == ("on_chain_end", "researcher")
    assert seen.count(("on_chat_model_start", "mesh:b")) == 1
    assert tokens == deltas == "one two three"


async def test_batches(far: Far) -> None:
    await far.serve(echo)
    agent = RemoteAgent(far.a, "b")
    texts = [f"q{n}" for n in range(10)]
    answers = await agent.abatch(texts, {"max_concurrency": 3})
    assert [a.text for a in answers] == [f"echo: {t}" for t in texts]
    answers = await asyncio.to_thread(agent.batch, texts)
    assert [a.text for a in answers] == [f"echo: {t}" for t in texts]
    mixed = await agent.abatch(["ok", "fail"], return_exceptions=True)
    assert mixed[0].text == "echo: ok"
    assert isinstance(mixed[1], MeshError)


async def test_sync_calls_on_the_meshs_own_loop_raise_at_once(far: Far) -> None:
    await far.serve(echo)
    agent = RemoteAgent(far.a, "b")
    for call in (agent.invoke, lambda x: list(agent.stream(x)), lambda x: agent.batch([x, x])):
        with pytest.raises(RuntimeError, match="await"):
            call("x")
    assert far.asked == []


async def test_other_threads_and_other_loops(far: Far) -> None:
    await far.serve(echo)
    agent, results = RemoteAgent(far.a, "b"), list[Any]()

    async def elsewhere() -> None:
        results.append((await agent.ainvoke("loop")).text)
        results.append("".join([c.content async for c in agent.astream("stream")]))

    def in_thread() -> None:
        results.append(agent.invoke("sync").text)
        results.append("".join(c.content for c in agent.stream("sync stream")))
        asyncio.run(elsewhere())

    thread = threading.Thread(target=in_thread)
    thread.start()
    await asyncio.to_thread(thread.join, 20)
    assert results == [f"echo: {t}" for t in ("sync", "sync stream", "loop", "stream")]


async def test_a_link_of_a_chain(far: Far) -> None:
    writer = Writer()
    await far.serve(writer.__call__)
    chain = ChatPromptTemplate.from_template("about {x}") | RemoteAgent(far.a, "b") | StrOutputParser()
    parts = []
    async for part in chain.astream({"x": "gulls"}):
        parts.append(part)
        writer.go.set()
    assert "".join(parts) == "one two three"
    assert parts[0] == "one ", "the chain streams through"
    assert far.asked[0].content == "about gulls"
    assert await chain.ainvoke({"x": "gulls"}) == "one two three"


async def test_a_node_of_a_graph(far: Far) -> None:
    """State in, state out; its tokens and its message have one id and are seen once; the next turn sends the news."""
    writer = Writer()
    await far.serve(writer.__call__)
    builder = StateGraph(MessagesState).add_node("b", RemoteAgent(far.a, "b")).add_edge(START, "b")
    graph = builder.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "T"}}
    seen: list[Any] = []
    async for message, about in graph.astream({"messages": "first"}, config, stream_mode="messages"):
        seen.append(message)
        assert about["langgraph_node"] == "b"
        writer.go.set()
    (answer,) = (await graph.aget_state(config)).values["messages"][1:]
    assert isinstance(answer, AIMessage)
    assert "".join(m.content for m in seen) == answer.text == "one two three"
    assert {m.id for m in seen} == {answer.id}
    await graph.ainvoke({"messages": "second"}, config)
    assert [m.content for m in far.asked] == ["first", "second"]
    assert len({m.conversation for m in far.asked}) == 1


async def test_a_node_that_runs_again_is_answered_again(far: Far) -> None:
    """After an interrupt and after a retry the same question has the same id; the peer works once."""
    await far.serve(echo)
    agent, tries = RemoteAgent(far.a, "b"), list[str]()

    async def node(state: MessagesState, config: RunnableConfig) -> Any:
        answer = await agent.ainvoke(state["messages"], config)
        tries.append(answer.text)
        if len(tries) == 1:
            raise ConnectionError("after the answer")
        interrupt("go on?")
        return {"messages": [answer]}

    builder = StateGraph(MessagesState).add_node("n", node, retry_policy=RetryPolicy(initial_interval=0.01))
    graph = builder.add_edge(START, "n").compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "T"}}
    await graph.ainvoke({"messages": "q"}, config)
    out = await graph.ainvoke(Command(resume=True), config)
    assert out["messages"][-1].text == "echo: q"
    assert tries == ["echo: q"] * 3
    assert len(far.asked) == 1
    await graph.ainvoke({"messages": "q"}, config)
    assert len(far.asked) == 2, "the next turn asks anew, though the text is the same"


async def test_the_same_text_twice_at_once_in_a_node_is_two_questions(far: Far) -> None:
    async def slow(message: Incoming) -> str:
        await asyncio.sleep(0.05)
        return message.message_id

    await far.serve(slow)
    agent = RemoteAgent(far.a, "b")

    async def node(state: MessagesState, config: RunnableConfig) -> Any:
        return {"messages": await agent.abatch(["x", "x"], config)}

    graph = StateGraph(MessagesState).add_node("n", RunnableLambda(node)).add_edge(START, "n").compile()
    out = await graph.ainvoke({"messages": "go"}, {"configurable": {"thread_id": "T"}})
    first, second = out["messages"][1:]
    assert first.text != second.text


async def test_a_skill_takes_a_mapping_or_text(far: Far) -> None:
    async def look(message: Incoming) -> str:
        return json.dumps([message.skill, message.arguments])

    await far.serve(look)
    agent = RemoteAgent(far.a, "b", skill="search")
    assert json.loads((await agent.ainvoke({"query": "gulls"})).text) == ["search", {"query": "gulls"}]
    assert json.loads((await agent.ainvoke("gulls")).text) == ["search", {"message": "gulls"}]
    state = await agent.ainvoke({"messages": [("human", "gulls")]})
    assert json.loads(state["messages"][0].text) == ["search", {"message": "gulls"}]


async def test_failures_are_mesh_errors(far: Far) -> None:
    await far.serve(echo)
    with pytest.raises(MeshError) as failed:
        await RemoteAgent(far.a, "b").ainvoke("fail")
    assert failed.value.code == "handler_failed"
    with pytest.raises(MeshError) as nobody:
        await RemoteAgent(far.a, "nobody", timeout=5).ainvoke("x")
    assert nobody.value.executed == "no"
    with pytest.raises(MeshError):
        await anext(RemoteAgent(far.a, "b").astream("fail"))
    fallback = RemoteAgent(far.a, "b").with_fallbacks([RunnableLambda(lambda _: AIMessage("instead"))])
    assert (await fallback.ainvoke("fail")).text == "instead"
