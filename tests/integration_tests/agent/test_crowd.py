"""Many peers at once over real data channels: nothing lost, nothing doubled, order kept in each conversation."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatixia_langchain import LocalMesh
from chatixia_langchain.testing import ScriptedChat

from ...unit_tests.agent.test_crowd import repeats_all, talk
from ..mesh.conftest import webrtc as webrtc  # a fixture
from .test_agents import served


@pytest.mark.parametrize("kept_by", ["store", "checkpointer"])
async def test_6_peers_times_20_messages_at_once(webrtc: LocalMesh, kept_by: str) -> None:
    agent: Any = ScriptedChat(rule=repeats_all)
    if kept_by == "checkpointer":
        agents, memory = (pytest.importorskip(n) for n in ("langchain.agents", "langgraph.checkpoint.memory"))
        agent = agents.create_agent(agent, [], checkpointer=memory.InMemorySaver())
    hub, *peers = await asyncio.gather(*(webrtc.join(n) for n in ("hub", *(f"p{n}" for n in range(6)))))
    await asyncio.gather(*(p.wait_for_peer("hub") for p in peers))
    async with served((hub, agent)):
        answers = await asyncio.gather(*(talk(p) for p in peers))
    for peer, answer in zip(peers, answers, strict=True):
        assert answer.split() == [*(f"{peer.name}-{n}" for n in range(20)), "all?"]
