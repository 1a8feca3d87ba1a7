"""Under pressure the router refuses requests and holds messages; it loses neither, and never waits in a circle."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableLambda

from chatixia_langchain import ChatLoop, InboundPolicy, Incoming, LocalMesh, MeshAgent, MeshTool
from chatixia_langchain.agent import conversation
from chatixia_langchain.agent.conversation import Router
from chatixia_langchain.errors import Busy
from chatixia_langchain.testing import ScriptedChat, ask_then_answer


class Turns:
    """Turns that wait for `gate` and note what they were given; while `paused` they take decisions only."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.paused = False
        self.repeated: set[str] = set()  # ids that were worked on before
        self.batches: list[list[Incoming]] = []
        self.waiting: list[str] = []  # told of a paused thread

    async def take(self, thread: str, batch: list[Incoming]) -> bool:
        await self.gate.wait()
        if "resume" in batch[-1].meta:
            self.paused = False
        elif self.paused:
            return False
        self.batches.append(batch)
        return True

    async def again(self, thread: str, request: Incoming) -> bool:
        if request.message_id in self.repeated:
            await request.reply("as before")
            return True
        return False

    async def held(self, messages: list[Incoming]) -> None:
        self.waiting = [m.content for m in messages]

    @property
    def texts(self) -> list[list[str]]:
        return [[m.content for m in batch] for batch in self.batches]

    async def until(self, count: int) -> None:
        while sum(map(len, self.batches)) < count:
            await asyncio.sleep(0.005)


def message(text: str, *, conversation: str = "c", expects_reply: bool = False, **more: Any) -> Incoming:
    return Incoming("p", text, conversation, f"id-{text}", expects_reply, **more)


async def test_messages_past_the_bound_wait_and_all_arrive_in_order() -> None:
    """Their sender was told that they arrived: refusing them now would lose them."""
    turns = Turns()
    router = Router("me", turns, max_concurrency=1, max_queue=2)

    async def feed() -> None:
        for n in range(10):
            await router.feed(message(str(n)))

    feeding = asyncio.create_task(feed())
    await asyncio.sleep(0.05)
    assert not feeding.done(), "the queue is full"
    with pytest.raises(Busy):
        await router.feed(message("a request", expects_reply=True))
    turns.gate.set()
    await feeding
    await turns.until(10)
    assert [t for texts in turns.texts for t in texts] == [str(n) for n in range(10)]
    await router.aclose()


async def test_a_request_has_a_turn_of_its_own() -> None:
    """Cancelling it must not take the messages along that came before it."""
    turns = Turns()
    router = Router("me", turns, max_concurrency=1, max_queue=8)
    for text, asks in [("a", False), ("b", False), ("c", True), ("d", False), ("e", True), ("f", True)]:
        await router.feed(message(text, expects_reply=asks))
    turns.gate.set()
    await turns.until(6)
    assert turns.texts == [["a", "b"], ["c"], ["d"], ["e"], ["f"]]
    await router.aclose()


async def test_full_conversation_refuses_and_loses_nothing() -> None:
    turns = Turns()
    router = Router("me", turns, max_concurrency=1, max_queue=2)
    taken = refused = 0
    for n in range(10):
        try:
            await router.feed(message(str(n), expects_reply=True))
            taken += 1
        except Busy:
            refused += 1
    assert (taken, refused) == (2, 8)
    turns.gate.set()
    await turns.until(taken)
    assert turns.texts == [["0"], ["1"]]
    await router.aclose()


async def test_idle_worker_ends_and_a_new_one_starts() -> None:
    turns = Turns()
    turns.gate.set()
    router = Router("me", turns, max_concurrency=1, max_queue=2, idle_s=0.05)
    for text in ("a", "b"):
        await router.feed(message(text, expects_reply=True))
        assert router.threads == 1
        await asyncio.sleep(0.2)
        assert router.threads == 0
    assert turns.texts == [["a"], ["b"]]


async def test_conversations_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that makes up a conversation id per message gets no worker per message."""
    monkeypatch.setattr(conversation, "MAX_THREADS", 2)
    turns = Turns()
    router = Router("me", turns, max_concurrency=8, max_queue=8, idle_s=0.02)
    for name in ("x", "y"):
        await router.feed(message(name, conversation=name))
    with pytest.raises(Busy, match="2 conversations"):
        await router.feed(message("z", conversation="z", expects_reply=True))
    waits = asyncio.create_task(router.feed(message("later", conversation="z")))
    await asyncio.sleep(0.05)
    assert not waits.done()
    assert router.threads == 2
    turns.gate.set()
    await waits
    await turns.until(3)
    assert sorted(t for texts in turns.texts for t in texts) == ["later", "x", "y"]
    await router.aclose()


async def test_time_spent_waiting_is_taken_off() -> None:
    turns = Turns()
    router = Router("me", turns, max_concurrency=1, max_queue=8)
    await router.feed(message("first", expects_reply=True, ttl_s=60))
    await router.feed(message("second", expects_reply=True, ttl_s=0.02))
    await asyncio.sleep(0.05)
    turns.gate.set()
    await turns.until(2)
    (first,), (second,) = turns.batches
    assert second.ttl_s == 0
    assert 50 < first.ttl_s <= 60
    await router.aclose()


async def test_an_idle_conversation_makes_room_for_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "MAX_THREADS", 2)
    turns = Turns()
    turns.gate.set()
    router = Router("me", turns, max_concurrency=8, max_queue=8, idle_s=60)
    for name in ("x", "y", "z", "x"):
        await asyncio.wait_for(router.feed(message(name, conversation=name, expects_reply=True)), 5)
        await asyncio.sleep(0.01)
    await turns.until(4)
    assert router.threads == 2
    await router.aclose()


async def test_one_peer_cannot_take_the_room_of_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "MAX_THREADS_PER_PEER", 2)
    turns = Turns()
    router = Router("me", turns, max_concurrency=8, max_queue=8)
    for name in ("x", "y"):
        await router.feed(message(name, conversation=name, expects_reply=True))
    with pytest.raises(Busy, match="2 conversations"):
        await router.feed(message("z", conversation="z", expects_reply=True))
    await router.feed(Incoming("another", "hi", "z", "m1", expects_reply=True))
    assert router.threads == 3
    await router.aclose()


async def test_agents_that_ask_each_other_at_their_limit_do_not_wait_for_each_other() -> None:
    """Both may run one turn at a time, and both are asked at once something for which they must ask the other."""
    async with LocalMesh(transport="memory") as local:
        a, b, user = [await local.join(n) for n in ("a", "b", "user")]

        def agent(mesh: Any, peer: str) -> ChatLoop:
            def rule(messages: list[BaseMessage], tools: tuple[str, ...]) -> Any:
                if "fact" in messages[-1].text and messages[-1].type == "human":
                    return f"fact of {mesh.name}"
                return asks(messages, tools)

            asks = ask_then_answer(f"ask_{peer}", lambda q: {"message": "your fact?"}, lambda r: f"{mesh.name} got {r}")
            return ChatLoop(ScriptedChat(rule=rule), tools=[MeshTool(mesh, peer=peer)])

        policy = InboundPolicy(tools=["ask_a", "ask_b"])
        tasks = [
            asyncio.create_task(MeshAgent(mesh, agent(mesh, peer), policy=policy, max_concurrency=1).serve())
            for mesh, peer in ((a, "b"), (b, "a"))
        ]
        answers = await asyncio.gather(*(user.ask(p, f"go {n}", timeout=10) for n in range(4) for p in "ab"))
        assert [r.content for r in answers] == ["a got fact of b", "b got fact of a"] * 4
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("replies", [False, True])
async def test_answers_to_broadcasts_go_back_only_when_wanted(replies: bool) -> None:
    async with LocalMesh(transport="memory") as local:
        a, b = await local.join("a"), await local.join("b")
        heard = asyncio.Event()

        async def run(messages: list[BaseMessage]) -> str:
            heard.set()
            return "noted"

        policy = InboundPolicy(reply_to_broadcasts=replies)
        serving = asyncio.create_task(MeshAgent(b, RunnableLambda(run), policy=policy).serve())
        await a.broadcast("all hear", conversation="news")
        await asyncio.wait_for(heard.wait(), 5)
        inbox = a.incoming()
        if replies:
            answer = await asyncio.wait_for(inbox.__anext__(), 5)
            assert (answer.content, answer.conversation, answer.hops) == ("noted", "news", 1)
            assert not answer.expects_reply
            assert answer.chain == ("b",)
        else:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(inbox.__anext__(), 0.3)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
