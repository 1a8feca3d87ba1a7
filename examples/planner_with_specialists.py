"""A planner and three specialists: each peer is a tool, and the model asks all three at once.

    python examples/planner_with_specialists.py

The specialists answer at the same time, each in its own agent; one that fails is an error message to the planner's
model, and the other two still count.
"""

from __future__ import annotations

import asyncio

from langchain.agents import create_agent
from model import calls, chat_model, says

from chatixia_langchain import LocalMesh, Mesh, MeshAgent, MeshTool

SPECIALISTS = {
    "trains": ("knows timetables", "The night train leaves at 20:14."),
    "hotels": ("knows rooms and prices", "A room near the harbour costs 80."),
    "weather": ("knows the forecast", "Rain on Saturday, sun on Sunday."),
}
QUESTION = "Plan a weekend at the sea."
PLAN = "Your weekend:\n- {0}\n- {1}\n- {2}"


async def serve(mesh: Mesh, about: str, answer: str) -> None:
    """One specialist."""
    agent = create_agent(chat_model(says(answer)), system_prompt=f"You {about}. Answer in one sentence.")
    await MeshAgent(mesh, agent).serve()


async def main() -> None:
    """Four agents, one question."""
    async with LocalMesh() as local:
        members = await asyncio.gather(*(local.join(n, description=a) for n, (a, _) in SPECIALISTS.items()))
        planner = await local.join("planner")
        serving = [asyncio.create_task(serve(m, *SPECIALISTS[m.name])) for m in members]
        for name in SPECIALISTS:
            await planner.wait_for_peer(name)

        wanted = [(f"ask_{name}", {"message": QUESTION}) for name in SPECIALISTS]
        model = chat_model(calls(*wanted, then=PLAN))
        agent = create_agent(
            model,
            [MeshTool(planner, peer=name) for name in SPECIALISTS],
            system_prompt="Ask every specialist before you answer.",
        )
        out = await agent.ainvoke({"messages": [QUESTION]})

        print(out["messages"][-1].text)
        asked = [m.artifact for m in out["messages"] if m.type == "tool"]
        print(f"asked: {', '.join(sorted(a['peer'] for a in asked))}")
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
