"""An agent on `openai.AsyncOpenAI` alone, without langgraph: `ChatLoop`, with a peer as its tool, token by token.

    python examples/loop_on_openai.py

Needs the extra openai. Without OPENAI_API_KEY the client talks to a small server of this package, which follows a
script but speaks the real protocol: streamed fragments of tool calls included.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import Any

from langchain_core.messages import AIMessageChunk, ToolMessage
from openai import AsyncOpenAI

from chatixia_langchain import ChatLoop, Incoming, Mesh, MeshAgent, MeshTool
from chatixia_langchain.testing import OpenAIServer


def script(body: dict[str, Any]) -> dict[str, Any]:
    """What the offline server says: first a call of the tool, then an answer."""
    last = body["messages"][-1]
    if last["role"] == "tool":
        return {"role": "assistant", "content": f"The gulls are here: {last['content']}"}
    call = {"name": "ask_librarian", "arguments": json.dumps({"message": "gulls"})}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": call}]}


async def librarian(message: Incoming) -> str:
    """An agent may be a plain async function, too."""
    return f"shelf {len(message.content)}"


async def main() -> None:
    """Ask one question and print the answer while it is written."""
    async with contextlib.AsyncExitStack() as stack:
        offline = not os.environ.get("OPENAI_API_KEY")
        server = stack.enter_context(OpenAIServer(script, delay_s=0.02)) if offline else None
        client = AsyncOpenAI(base_url=server.url, api_key="offline") if server else AsyncOpenAI()
        here = await stack.enter_async_context(Mesh("me", transport="memory"))
        there = await stack.enter_async_context(Mesh("librarian", transport="memory", description="finds books"))
        serving = asyncio.create_task(MeshAgent(there, librarian).serve())
        await here.wait_for_peer("librarian")

        model_name = os.environ.get("OPENAI_MODEL", "gpt-5-mini")
        loop = ChatLoop(client, model_name=model_name, tools=[MeshTool(here, peer="librarian")])
        async for message in loop.astream("Where is the book about gulls?", thread_id="user-1"):
            if isinstance(message, AIMessageChunk):
                print(message.text, end="", flush=True)
            elif isinstance(message, ToolMessage):
                print(f"[{message.name}: {message.text}]")
        print()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await client.close()


if __name__ == "__main__":
    asyncio.run(main())
