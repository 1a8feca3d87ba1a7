"""Many peers at one agent, and many streams: the processes of `memory.py`. `crowd.py serve|call NAME GIVEN_JSON`."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import worker
from agents import order, specialist

from chatixia_langchain import InboundPolicy, Mesh, MeshAgent, RemoteAgent

WORDS = 8


async def join(given: dict[str, Any], name: str) -> Mesh:
    """A member over its own sidecar."""
    key = given["keys"][name]
    return await Mesh(name, registry=given["registry"], api_key=key, transport="sidecar", request_timeout_s=600).start()


class Crowd:
    """The server is one agent. The client is `peers` members that ask it at once, the first of which streams too."""

    async def serve(self, given: dict[str, Any]) -> dict[str, Any]:
        hub = await join(given, "hub")
        policy = InboundPolicy(max_turns_per_minute=1_000_000)
        agent = MeshAgent(hub, specialist(), policy=policy, max_concurrency=given["streams"])
        self.task = asyncio.create_task(agent.serve(), name="serve")
        return {}

    async def stop(self) -> None:
        """Sidecars end with their processes."""

    async def connect(self, told: dict[str, Any]) -> dict[str, Any]:
        """Join one after another, then one ask each, so that all are connected."""
        self.given = told
        self.members = [await join(told, f"peer{n}") for n in range(told["peers"])]
        await asyncio.gather(*(m.wait_for_peer("hub", timeout=60) for m in self.members))
        await asyncio.gather(*(m.ask("hub", order(WORDS)) for m in self.members))
        return {"ready": True}

    async def messages(self) -> dict[str, Any]:
        """Every peer sends its messages at once, in one conversation; each has to be answered in full."""
        began = time.perf_counter()
        asks = [
            m.ask("hub", f"{n}: {order(WORDS)}", conversation="crowd")
            for m in self.members
            for n in range(self.given["messages"])
        ]
        replies = await asyncio.gather(*asks)
        if any(len(reply.content.split()) != WORDS for reply in replies):
            raise RuntimeError("an answer is not whole")
        return {"seconds": time.perf_counter() - began, "done": len(replies)}

    async def streams(self) -> dict[str, Any]:
        """Many streams of one peer at once; every word has to come."""
        remote, words = RemoteAgent(self.members[0], "hub"), self.given["words"]
        began = time.perf_counter()

        async def read(n: int) -> int:
            config = {"configurable": {"thread_id": f"stream-{n}"}}
            texts = [chunk.text async for chunk in remote.astream(f"{n}: {order(words)}", config)]
            return len("".join(texts).split())

        counts = await asyncio.gather(*(read(n) for n in range(self.given["streams"])))
        if set(counts) != {words}:
            raise RuntimeError(f"streams of {sorted(set(counts))} words, not {words}")
        return {"seconds": time.perf_counter() - began, "done": sum(counts)}


if __name__ == "__main__":
    asyncio.run(worker.run(Crowd(), {"messages", "streams"}))
