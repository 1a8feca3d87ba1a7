"""Two agents in two processes, each with a sidecar of its own: between one machine and two, only the address differs.

    python examples/two_processes.py

This program starts a registry, and itself once more as the researcher. On two machines you would run the registry by
`chatixia-langchain registry`, and set CHATIXIA_REGISTRY_URL and CHATIXIA_API_KEY where each agent runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

from langchain.agents import create_agent
from model import calls, chat_model, says

from chatixia_langchain import LocalMesh, Mesh, MeshAgent, MeshTool

QUESTION = "How long does light take from the Sun?"


async def researcher() -> None:
    """The other process: finds the registry and its key in the environment, serves until it is interrupted."""
    async with Mesh("researcher", description="knows how fast light is") as mesh:
        print(f"the researcher is process {os.getpid()}", flush=True)
        model = chat_model(says("Light needs 8 min 19 s from the Sun."))
        await MeshAgent(mesh, create_agent(model, system_prompt="Answer in one sentence.")).serve()


async def planner(local: LocalMesh) -> None:
    """This process: its agent asks the other one."""
    mesh = await local.join("planner")
    await mesh.wait_for_peer("researcher", timeout=30)
    print(f"the planner is process {os.getpid()}", flush=True)
    model = chat_model(calls(("ask_researcher", {"message": QUESTION}), then="The researcher found: {0}"))
    agent = create_agent(model, [MeshTool(mesh, peer="researcher")])
    out = await agent.ainvoke({"messages": [QUESTION]})
    print(out["messages"][-1].text)


async def main() -> None:
    """Start the registry and the researcher; be the planner."""
    async with LocalMesh() as local:
        env = {"CHATIXIA_REGISTRY_URL": local.registry_url, "CHATIXIA_API_KEY": local.api_key("researcher")}
        other = await asyncio.create_subprocess_exec(sys.executable, __file__, "researcher", env=os.environ | env)
        try:
            await planner(local)
        finally:
            with contextlib.suppress(ProcessLookupError):
                other.send_signal(signal.SIGINT)
            await other.wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(researcher() if "researcher" in sys.argv else main())
