"""A remote agent's tokens arrive while it still writes: in your graph's streams, through a tool, and by RemoteAgent.

    python examples/streaming.py

Three ways to read them: `RemoteAgent.astream`, `stream_mode="messages"` of a graph that calls the peer as a tool, and
`mesh.ask_stream` where there is no LangChain at all.
"""

from __future__ import annotations

import asyncio

from langchain.agents import create_agent
from langchain_core.messages import AIMessageChunk
from model import calls, chat_model, says

from chatixia_langchain import LocalMesh, Mesh, MeshAgent, MeshTool, RemoteAgent

POEM = "The gulls write slowly on the wind, and every word arrives in time."
QUESTION = "A line about gulls, please."


async def by_remote_agent(mesh: Mesh) -> None:
    """The peer as a Runnable. Leaving the loop early would cancel the peer's run."""
    print("RemoteAgent: ", end="")
    async for chunk in RemoteAgent(mesh, "poet").astream(QUESTION):
        if chunk.text:
            print(chunk.text, end="|", flush=True)
    print()


async def by_graph(mesh: Mesh) -> None:
    """Two models write: ours, and the poet's inside the tool call. Each chunk says whose it is."""
    model = chat_model(calls(("ask_poet", {"message": QUESTION}), then="The poet wrote it."))
    agent = create_agent(model, [MeshTool(mesh, peer="poet")])
    last = ""
    async for chunk, _ in agent.astream({"messages": [QUESTION]}, stream_mode="messages"):
        if isinstance(chunk, AIMessageChunk) and chunk.text:
            whose = chunk.name or "our model"
            print(chunk.text if whose == last else f"\n{whose}: {chunk.text}", end="|", flush=True)
            last = whose
    print()


async def without_langchain(mesh: Mesh) -> None:
    """The mesh itself; the stream is closed by `async with`, however the block ends."""
    print("ask_stream: ", end="")
    async with mesh.ask_stream("poet", QUESTION) as stream:
        async for piece in stream:
            print(piece.text, end="|", flush=True)
        reply = await stream.reply()
    print(f"\n{len(reply.content.split())} words over the {reply.path}")


async def main() -> None:
    """Serve the poet and read from it three times."""
    async with LocalMesh() as local:
        poet, reader = await local.join("poet"), await local.join("reader")
        serving = asyncio.create_task(MeshAgent(poet, create_agent(chat_model(says(POEM)))).serve())
        await reader.wait_for_peer("poet")
        await by_remote_agent(reader)
        await by_graph(reader)
        await without_langchain(reader)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
