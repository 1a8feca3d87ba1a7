"""Two LangChain agents in one program: the planner's model calls the researcher as a tool. Runs offline.

    python examples/two_agents.py

Needs the extras registry and agents. A registry and, where the binary is found, a sidecar for each agent are started
and ended by `LocalMesh`; on several machines each agent is a `Mesh("planner", registry=..., api_key=...)` instead.
"""

from __future__ import annotations

import asyncio

from langchain.agents import create_agent
from model import calls, chat_model, says

from chatixia_langchain import LocalMesh, MeshAgent, MeshTool

QUESTION = "How long does light take from the Moon?"
planner_model = chat_model(calls(("ask_researcher", {"message": QUESTION}), then="The researcher found: {0}"))
researcher_model = chat_model(says("Light needs 1.28 s from the Moon."))


async def main() -> None:
    """Ask the planner one question."""
    async with LocalMesh() as local:
        researcher = await local.join("researcher", description="knows how fast light is")
        planner = await local.join("planner")
        serving = asyncio.create_task(MeshAgent(researcher, create_agent(researcher_model)).serve())
        await planner.wait_for_peer("researcher")

        agent = create_agent(planner_model, [MeshTool(planner, peer="researcher")])
        out = await agent.ainvoke({"messages": [QUESTION]}, {"configurable": {"thread_id": "user-1"}})

        print(out["messages"][-1].text)
        artifact = out["messages"][-2].artifact
        print(f"by {planner.transport_name}, over the {artifact['path']}, in {artifact['latency_ms']:.1f} ms")
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
