"""One agent of the demo, in a process of its own: `python -m chatixia_langchain.cli.demo_member NAME`.

Settings come by the environment (registry, key, transport, model), so no secret is in a command line. The
conversation with the demo's process, one JSON object a line:
- it says `joined`, then `turn` for each turn that begins or ends, `said` and `tool` for its own messages, `links`;
- it is told `{"do": "ask", "text": ...}`, `{"do": "links"}` on stdin, and ends when stdin does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from openai import AsyncOpenAI

from ..agent.chat_loop import ChatLoop
from ..agent.mesh_agent import MeshAgent, TurnEvent
from ..errors import MeshError
from ..mesh.mesh import Mesh
from ..tools.mesh_tool import MeshTool
from ..tools.toolkit import MeshToolkit
from .demo_script import ABOUT, PROMPTS


def say(event: str, **more: Any) -> None:
    """Tell the demo's process one thing."""
    print(json.dumps({"event": event, **more}), flush=True)


def on_turn(event: TurnEvent) -> None:
    """Tell of a turn that serves a peer."""
    last = event.messages[-1]
    say(
        "turn",
        kind=event.kind,
        peer=last.peer,
        broadcast=last.broadcast,
        asked=last.content,
        answer=event.answer or event.error,
        path=last.path,
    )


def loop_for(mesh: Mesh, client: AsyncOpenAI) -> ChatLoop:
    """The agent called `mesh.name`: its part, and the peers it may ask."""
    broadcast = next(t for t in MeshToolkit(mesh).get_tools() if t.name == "mesh_broadcast")
    tools = {
        "planner": (MeshTool(mesh, peer="researcher"), broadcast),
        "researcher": (MeshTool(mesh, peer="librarian"),),
    }.get(mesh.name, ())
    model = os.environ.get("OPENAI_MODEL", "gpt-4o-mini")
    return ChatLoop(client, model_name=model, tools=tools, system_prompt=PROMPTS[mesh.name])


async def ask(loop: ChatLoop, text: str) -> None:
    """Run one turn of the user's own conversation, telling of each message as it comes."""
    async for message in loop.astream(text, thread_id="user"):
        if message.type == "tool":
            artifact = getattr(message, "artifact", None)
            failed = getattr(message, "status", "") == "error"
            say("tool", name=message.name, text=str(message.text), artifact=artifact, failed=failed)
        elif message.type == "ai":
            calls = [{"name": c["name"], "args": c["args"]} for c in getattr(message, "tool_calls", [])]
            say("said", text=str(message.text), calls=calls)
    say("answered")


async def obey(mesh: Mesh, loop: ChatLoop) -> None:
    """Do what stdin says until it ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        told = json.loads(line)
        if told["do"] == "links":
            say("links", status=await mesh.status())
            continue
        try:
            await ask(loop, told["text"])
        except Exception as exc:  # noqa: BLE001  the model's service may fail in many ways: the demo names it and ends
            say("failed", why=f"{type(exc).__name__}: {exc}")


async def main(name: str) -> None:
    """Join, serve, obey."""
    try:
        async with Mesh(name, description=ABOUT[name]) as mesh, AsyncOpenAI() as client:
            loop = loop_for(mesh, client)
            status = await mesh.status()
            say("joined", transport=mesh.transport_name, why=status["why"])
            serving = asyncio.create_task(MeshAgent(mesh, loop, on_turn=on_turn).serve(), name="serve")
            try:
                await obey(mesh, loop)
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)
    except (MeshError, RuntimeError) as exc:
        say("failed", why=str(exc))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
