"""Many peers at once: nothing lost, nothing doubled, order kept in each conversation, every queue within its bound."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.messages import BaseMessage, HumanMessage

from chatixia_langchain import LocalMesh, Mesh, MeshAgent, MeshError
from chatixia_langchain.agent.lane import MAX_BATCH
from chatixia_langchain.testing import ScriptedChat

from .test_approval import said
from .test_mesh_agent import local as local
from .test_mesh_agent import served

PEERS, MESSAGES, QUEUE, INBOX = 50, 20, 8, 512  # 1000 messages: more than may wait


def repeats_all(messages: list[BaseMessage], _: tuple[str, ...]) -> str:
    return " ".join(said(m) for m in messages if isinstance(m, HumanMessage))


class Thoughtful(ScriptedChat):
    """Takes a moment, so that messages come faster than turns end; notes how many do so at once."""

    at_once: Any
    most: Any

    async def _agenerate(self, *args: Any, **more: Any) -> Any:
        self.at_once.append(1)
        self.most.append(len(self.at_once))
        await asyncio.sleep(0.005)
        self.at_once.pop()
        return self._generate(*args, **more)


class Watch:
    """The largest sizes that the queues of an agent have had."""

    def __init__(self, mesh: Mesh, agent: MeshAgent) -> None:
        self.lanes = self.waiting = self.inbox = 0
        self._task = asyncio.create_task(self._look(mesh, agent))

    async def _look(self, mesh: Mesh, agent: MeshAgent) -> None:
        engine = mesh._lifetime.engine
        assert engine is not None
        while True:
            router = agent._router
            if router is not None:
                self.lanes, self.waiting = max(self.lanes, router.threads), max(self.waiting, router.waiting)
            self.inbox = max(self.inbox, len(engine.core.inbox.items))
            await asyncio.sleep(0.002)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def talk(mesh: Mesh) -> str:
    """Twenty messages as fast as they are taken, then a question about all of them, asked until there is room."""
    for n in range(MESSAGES):
        await mesh.send("hub", f"{mesh.name}-{n}", conversation="c")
    while True:
        try:
            return (await mesh.ask("hub", "all?", conversation="c", timeout=60)).content
        except MeshError as exc:
            if exc.code != "busy":
                raise
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("kept_by", ["store", "checkpointer"])
async def test_50_peers_times_20_messages_at_once(local: LocalMesh, kept_by: str) -> None:
    model = Thoughtful(rule=repeats_all, disable_streaming=True, at_once=[], most=[])
    agent: Any = model
    if kept_by == "checkpointer":
        agents, memory = (pytest.importorskip(n) for n in ("langchain.agents", "langgraph.checkpoint.memory"))
        agent = agents.create_agent(model, [], checkpointer=memory.InMemorySaver())
    hub = await local.join("hub", max_inbox=INBOX)
    peers = [await local.join(f"p{n}") for n in range(PEERS)]
    async with served(hub, agent, max_queue=QUEUE, max_concurrency=8) as serving:
        watch = Watch(hub, serving)
        answers = await asyncio.gather(*(talk(p) for p in peers))
        await watch.stop()
    for peer, answer in zip(peers, answers, strict=True):
        assert answer.split() == [*(f"{peer.name}-{n}" for n in range(MESSAGES)), "all?"]
    assert 0 < watch.inbox <= INBOX
    assert 0 < watch.lanes <= PEERS
    assert QUEUE < watch.waiting <= PEERS * (QUEUE + MAX_BATCH)
    assert 1 < max(model.most) <= 8
