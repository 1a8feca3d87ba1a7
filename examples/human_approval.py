"""A remote agent waits for a human: its `interrupt()` becomes one of your graph, and your answer goes back to it.

    python examples/human_approval.py

The gardener, in another process, may not cut a tree before somebody agrees. Its graph pauses, so ours pauses too, with
the question under the gardener's name; `Command(resume=...)` here lets it go on there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

from langchain.agents import create_agent
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from model import calls, chat_model

from chatixia_langchain import InboundPolicy, LocalMesh, Mesh, MeshAgent, MeshTool

WISH = "Make room for the shed, please."


@tool
def cut(tree: str) -> str:
    """Cut a tree."""
    answer = interrupt({"question": f"Cut the {tree}?"})
    return f"The {tree} is cut." if answer == "yes" else f"The {tree} stays."


async def gardener() -> None:
    """The other process. Its policy lets peers use `cut`; its checkpointer keeps what waits (here in memory)."""
    async with Mesh("gardener", description="looks after the trees") as mesh:
        model = chat_model(calls(("cut", {"tree": "old oak"}), then="Done. {0}"))
        agent = create_agent(model, [cut], checkpointer=InMemorySaver())
        await MeshAgent(mesh, agent, policy=InboundPolicy(tools=["cut"])).serve()


async def owner(mesh: Mesh) -> None:
    """This process: a graph with a checkpointer, so that it can wait too."""
    await mesh.wait_for_peer("gardener", timeout=30)
    model = chat_model(calls(("ask_gardener", {"message": WISH}), then="The gardener says: {0}"))
    agent = create_agent(model, [MeshTool(mesh, peer="gardener")], checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "garden"}}

    out = await agent.ainvoke({"messages": [WISH]}, thread)
    asked = out["__interrupt__"][0].value
    print(f"{asked['peer']} asks: {asked['value']['question']}", flush=True)
    answer = await asyncio.to_thread(input, "yes or no? ") if sys.stdin.isatty() else "no"
    out = await agent.ainvoke(Command(resume=answer), thread)
    print(out["messages"][-1].text)


async def main() -> None:
    """Start the registry and the gardener; be the owner."""
    async with LocalMesh() as local:
        env = {"CHATIXIA_REGISTRY_URL": local.registry_url, "CHATIXIA_API_KEY": local.api_key("gardener")}
        other = await asyncio.create_subprocess_exec(sys.executable, __file__, "gardener", env=os.environ | env)
        try:
            await owner(await local.join("owner"))
        finally:
            other.send_signal(signal.SIGINT)
            await other.wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(gardener() if "gardener" in sys.argv else main())
