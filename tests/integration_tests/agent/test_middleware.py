"""`MeshMiddleware` over real sidecars: peers as tools, mail, a task and the policy, in one agent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from chatixia_langchain import InboundPolicy, Incoming, LocalMesh, Mesh, MeshAgent
from chatixia_langchain.testing import ScriptedChat

from ...support import until
from ..mesh.conftest import local as local  # a fixture

agents = pytest.importorskip("langchain.agents")
pytestmark = pytest.mark.sidecar
GO: Any = {"messages": [HumanMessage("go")]}


def serve(mesh: Mesh, agent: Any) -> asyncio.Task[None]:
    return asyncio.create_task(MeshAgent(mesh, agent).serve())


async def test_an_agent_with_the_mesh_in_it(local: LocalMesh) -> None:
    """Asks a peer by its own tool, answers a question that came in meanwhile, and collects a task."""
    from chatixia_langchain import MeshMiddleware

    planner, oracle, curious = [await local.join(n) for n in ("planner", "oracle", "curious")]
    ran: list[Incoming] = []

    async def answer(message: Incoming) -> str:
        ran.append(message)
        return f"oracle: {message.content}"

    script: list[tuple[str, dict[str, Any]]] = [
        ("mesh_start_task", {"peer": "oracle", "description": "long"}),
        ("ask_oracle", {"message": "short"}),
    ]

    def rule(messages: list[BaseMessage], tools: tuple[str, ...]) -> AIMessage | str:
        results = {str(m.name): m for m in messages if isinstance(m, ToolMessage)}
        name, args = next(((n, a) for n, a in script if n not in results), ("", {}))
        if not name and "mesh_reply" in tools:
            mail = next(m.text for m in messages if "mesh_reply" in m.text)
            reference = mail.rpartition('message_id "')[2].split('"')[0]
            name, args = "mesh_reply", {"message_id": reference, "content": "soon"}
        if not name and "oracle: long" not in results.get("mesh_check_task", AIMessage("")).text:
            name, args = "mesh_check_task", {"task_id": next(iter(results["mesh_start_task"].artifact))}
        if not name:
            return results["ask_oracle"].text
        return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"c{len(messages)}"}])

    serving = serve(oracle, answer)
    await planner.wait_for_peer("oracle")
    await curious.wait_for_peer("planner")
    question = asyncio.create_task(curious.ask("planner", "when?", timeout=60))
    while not (await planner.status())["queues"]["inbox"]:
        await asyncio.sleep(0.02)
    ours = MeshMiddleware(planner, per_peer_tools=True, inbox=True, policy=InboundPolicy(tools="all"))
    agent = agents.create_agent(ScriptedChat(rule=rule), middleware=[ours])
    result = await agent.ainvoke(GO, {"recursion_limit": 200})
    assert result["messages"][-1].text == "oracle: short"
    assert (await question).content == "soon"
    (task,) = result["mesh_tasks"].values()
    assert task["status"] == "success"
    assert sorted(m.content for m in ran) == ["long", "short"]
    assert {m.path for m in ran} == {"channel"}
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_a_peer_whose_sidecar_is_gone_is_an_error_that_the_model_reads(local: LocalMesh) -> None:
    from chatixia_langchain import MeshMiddleware

    planner, oracle = await local.join("planner"), await local.join("oracle")
    await planner.wait_for_peer("oracle")
    seen: list[tuple[str, ...]] = []

    def rule(messages: list[BaseMessage], tools: tuple[str, ...]) -> AIMessage | str:
        seen.append(tools)
        if isinstance(messages[-1], ToolMessage):
            return f"[{messages[-1].status}] {messages[-1].text}"
        return AIMessage("", tool_calls=[{"name": "ask_oracle", "args": {"message": "x"}, "id": "c1"}])

    agent = agents.create_agent(ScriptedChat(rule=rule), middleware=[MeshMiddleware(planner, per_peer_tools=True)])
    await oracle.aclose()
    await until(lambda: planner.peers["oracle"].state == "offline")
    result = await agent.ainvoke(GO)
    assert result["messages"][-1].text.startswith("[error] [peer_unreachable] cannot reach 'oracle': it left the mesh")
    assert "ask_oracle" not in seen[0]
