"""Two LangChain agents on this machine: the planner's model calls the researcher as a tool. Runs offline.

    python examples/two_agents.py

Needs the extras registry and agents. A registry and, where the binary is found, a sidecar for each agent are started
and ended by `LocalMesh`; on several machines each agent is a `Mesh("planner", registry=..., api_key=...)` instead.
The models here follow a script: put any chat model in their place.
"""

from __future__ import annotations

import asyncio

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage

from chatixia_langchain import LocalMesh, MeshAgent, MeshTool
from chatixia_langchain.testing import ScriptedChat, ask_then_answer

planner_model = ScriptedChat(
    rule=ask_then_answer("ask_researcher", lambda q: {"message": q}, lambda found: f"The researcher found: {found}")
)
researcher_model = ScriptedChat(rule=lambda messages, tools: "Light needs 1.28 s from the Moon.")


async def main() -> None:
    """Ask the planner one question."""
    async with LocalMesh() as local:
        researcher = await local.join("researcher", description="knows how fast light is")
        planner = await local.join("planner")
        serving = asyncio.create_task(MeshAgent(researcher, create_agent(researcher_model)).serve())
        await planner.wait_for_peer("researcher")

        agent = create_agent(planner_model, [MeshTool(planner, peer="researcher")])
        question = HumanMessage("How long does light take from the Moon?")
        out = await agent.ainvoke({"messages": [question]}, {"configurable": {"thread_id": "user-1"}})

        print(out["messages"][-1].text)
        artifact = out["messages"][-2].artifact
        print(f"by {planner.transport_name}, over the {artifact['path']}, in {artifact['latency_ms']:.1f} ms")
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
