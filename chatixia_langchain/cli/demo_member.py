"""One agent of the demo, in a process of its own: `python -m chatixia_langchain.cli.demo_member NAME`.

The conversation with the demo's process, one JSON object a line, ends when stdin does, however the demo ends:
- it is told `{"do": "join", "registry", "api_key", "transport", "model"}`: secrets are in no command line and no file
- it says `loaded`, `joined`, then `turn` for each turn that begins or ends, and `said` and `tool` for its own messages
- it is told `{"do": "ask", "text": ...}` and says `answered`; `{"do": "links"}` and says `links`
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from ..agent.chat_loop import ChatLoop
from ..agent.mesh_agent import InboundPolicy, MeshAgent, TurnEvent
from ..errors import MeshError
from ..mesh.mesh import Mesh
from ..tools.mesh_tool import MeshTool
from ..tools.toolkit import MeshToolkit
from .demo_script import ABOUT, PROMPTS, rule


def say(event: str, **more: Any) -> None:
    """Tell the demo's process one thing."""
    try:
        print(json.dumps({"event": event, **more}), flush=True)
    except BrokenPipeError:  # the demo was killed: our stdin has ended too, and with it this process
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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


def tell(message: Any) -> None:
    """Tell of one message of the agent's own."""
    if message.type == "tool":
        failed = message.status == "error"
        say("tool", name=message.name, text=message.text, artifact=message.artifact, failed=failed)
    elif message.type == "ai":
        calls = [{"name": c["name"], "args": c["args"]} for c in message.tool_calls]
        say("said", text=message.text, calls=calls)


class ToldLoop(ChatLoop):
    """A loop that tells of each message as it comes, those of turns for peers too."""

    async def astream(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
        """Run one turn."""
        async for message in super().astream(*args, **options):
            tell(message)
            yield message


async def model_of(told: dict[str, Any] | None, stack: AsyncExitStack) -> Any:
    """The OpenAI client that the demo names, or the script. Raises RuntimeError when openai is not installed."""
    if told is None:
        from ..testing.scripted import ScriptedChat, from_openai_rule

        return ScriptedChat(rule=from_openai_rule(rule))
    try:
        from openai import AsyncOpenAI
    except ModuleNotFoundError as exc:
        raise RuntimeError("openai is not installed: pip install 'chatixia-langchain[openai]'") from exc
    return await stack.enter_async_context(AsyncOpenAI(**told["client"]))


def loop_for(mesh: Mesh, model: Any, model_name: str | None) -> ToldLoop:
    """The agent called `mesh.name`: its part, and the peers it may ask."""
    broadcast = next(t for t in MeshToolkit(mesh).get_tools() if t.name == "mesh_broadcast")
    tools = {
        "planner": (MeshTool(mesh, peer="researcher"), broadcast),
        "researcher": (MeshTool(mesh, peer="librarian"),),
    }.get(mesh.name, ())
    return ToldLoop(model, model_name=model_name, tools=tools, system_prompt=PROMPTS[mesh.name])


async def orders() -> AsyncIterator[dict[str, Any]]:
    """What stdin says, until it ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        yield json.loads(line)


async def ask(loop: ToldLoop, text: str) -> None:
    """Run a turn of the user's own conversation."""
    try:
        await loop.ainvoke(text, thread_id="user")
    except Exception as exc:  # noqa: BLE001  # the model's service may fail in many ways: the demo names it and ends
        say("failed", why=f"{type(exc).__name__}: {exc}")
    else:
        say("answered")


async def obey(mesh: Mesh, loop: ToldLoop, told: AsyncIterator[dict[str, Any]]) -> None:
    """Do what the demo says until it ends; a turn that runs then is cancelled."""
    turns: list[asyncio.Task[None]] = []  # one in a demo
    try:
        async for order in told:
            if order["do"] == "links":
                say("links", status=await mesh.status())
            else:
                turns.append(asyncio.create_task(ask(loop, order["text"]), name="demo-turn"))
    finally:
        for turn in turns:
            turn.cancel()
        await asyncio.gather(*turns, return_exceptions=True)


async def main(name: str) -> None:
    """Join, serve, obey."""
    say("loaded")
    told = orders()
    join = await anext(told, None)
    if join is None:
        return
    try:
        async with AsyncExitStack() as stack:
            model = await model_of(join["model"], stack)
            settings = {key: join[key] for key in ("registry", "api_key", "transport")}
            mesh = await stack.enter_async_context(Mesh(name, description=ABOUT[name], **settings))
            loop = loop_for(mesh, model, join["model"] and join["model"]["name"])
            say("joined", transport=mesh.transport_name, why=(await mesh.status())["why"])
            # What the planner asks, the researcher may pass on; nothing else acts for a peer.
            policy = InboundPolicy(tools=["ask_librarian"])
            serving = asyncio.create_task(MeshAgent(mesh, loop, policy=policy, on_turn=on_turn).serve(), name="serve")
            try:
                await obey(mesh, loop, told)
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)
    except (MeshError, RuntimeError) as exc:
        say("failed", why=str(exc))


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)  # what the demo has to say it says itself, in one place
    asyncio.run(main(sys.argv[1]))
