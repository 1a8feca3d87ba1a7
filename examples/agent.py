"""One agent of the mesh: answers whoever asks, and asks a peer now and then when told to.

    CHATIXIA_REGISTRY_URL=http://127.0.0.1:8080 CHATIXIA_API_KEY_FILE=researcher.key python examples/agent.py researcher
    CHATIXIA_REGISTRY_URL=http://127.0.0.1:8080 CHATIXIA_API_KEY_FILE=planner.key \\
        python examples/agent.py planner --ask researcher

It starts a sidecar of its own; with --sidecar-socket it uses one that runs already, as compose.yaml does. With
OPENAI_API_KEY set a model answers, which may ask other agents itself; without it the agent says back what it heard.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
from typing import Any

from chatixia_langchain import ChatLoop, InboundPolicy, Incoming, Mesh, MeshAgent, MeshError, MeshToolkit


def brain(mesh: Mesh) -> Any:
    """What answers: a model with the mesh as its tools, or an echo."""
    if os.environ.get("OPENAI_API_KEY"):
        from openai import AsyncOpenAI

        model_name = os.environ.get("OPENAI_MODEL", "gpt-4o-mini")
        return ChatLoop(AsyncOpenAI(), model_name=model_name, tools=MeshToolkit(mesh).get_tools())

    async def echo(incoming: Incoming) -> str:
        print(f"{incoming.peer} asks: {incoming.content}", flush=True)
        return f"{mesh.name} heard: {incoming.content}"

    return echo


async def ask(mesh: Mesh, peer: str, every_s: float) -> None:
    """Ask `peer` again and again; a peer that is away is no reason to end."""
    number = 0
    while True:
        number += 1
        try:
            reply = await mesh.ask(peer, f"question {number}", timeout=30)
            print(f"{reply.peer} answers over {reply.path}: {reply.content}", flush=True)
        except MeshError as exc:
            print(f"{peer}: {exc}", flush=True)
        await asyncio.sleep(every_s)


async def main() -> None:
    """Join and work until interrupted."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("name", help="this agent's name in the mesh, as in the registry's key file")
    options.add_argument("--sidecar-socket", default="", metavar="PATH", help="use the sidecar that listens here")
    options.add_argument("--ask", metavar="PEER", help="ask this peer")
    options.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="how often (default: %(default)s)")
    args = options.parse_args()

    async with Mesh(args.name, sidecar_socket=args.sidecar_socket, description="an example") as mesh:
        print(f"{mesh.name} is in the mesh, by {mesh.transport_name}", flush=True)
        async with asyncio.TaskGroup() as tasks:
            policy = InboundPolicy(tools=["mesh_ask"])  # a peer's question may make our model ask another, no more
            tasks.create_task(MeshAgent(mesh, brain(mesh), policy=policy).serve())
            if args.ask:
                tasks.create_task(ask(mesh, args.ask, args.every))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
