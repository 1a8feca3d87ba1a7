"""The agent of `test_approval.py`, in a process of its own that may be killed: everything it knows is in `FOLDER`.

    python approval_agent.py FOLDER NAME     settings by CHATIXIA_...; prints one JSON line per turn

Its tools write a line into FOLDER/effects: `launch` once a human agrees ("hang" makes it hang after that), `act` at
once, and then it hangs.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import interrupt

from chatixia_langchain import InboundPolicy, Mesh, MeshAgent
from chatixia_langchain.agent.mesh_agent import TurnEvent
from chatixia_langchain.testing import ScriptedChat

FOLDER, NAME = Path(sys.argv[1]), sys.argv[2]


@tool
async def launch(what: str) -> str:
    """Launch something, once a human agrees."""
    answer = interrupt({"question": f"launch {what}?"})
    if answer not in ("yes", "hang"):
        return f"{what} stays: {answer}"
    with open(FOLDER / "effects", "a") as file:
        file.write(f"{what}\n")
    say(kind="effect")
    if answer == "hang":
        await asyncio.sleep(600)
    return f"{what} is launched"


@tool
async def act(what: str) -> str:
    """Act at once, and never come back."""
    with open(FOLDER / "effects", "a") as file:
        file.write(f"{what}\n")
    say(kind="effect")
    await asyncio.sleep(600)
    return "never"


def rule(messages: list[BaseMessage], tools: tuple[str, ...]) -> AIMessage | str:
    last = messages[-1]
    if isinstance(last, ToolMessage):
        return last.text
    text = last.text.split("\n")[2]
    verb, _, what = text.partition(" ")
    if verb not in ("launch", "act"):
        return f"heard {sum(isinstance(m, HumanMessage) for m in messages)}"
    call: Any = {"name": verb, "args": {"what": what}, "id": "c1", "type": "tool_call"}
    return AIMessage("", tool_calls=[call])


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def show(event: TurnEvent) -> None:
    say(kind=event.kind, error=event.error)


async def main() -> None:
    path = str(FOLDER / "graph.sqlite")
    async with AsyncSqliteSaver.from_conn_string(path) as saver, Mesh(NAME, state_dir=str(FOLDER / "state")) as mesh:
        graph = create_agent(ScriptedChat(rule=rule), [launch, act], checkpointer=saver)
        say(kind="ready")
        await MeshAgent(mesh, graph, policy=InboundPolicy(tools="all"), on_turn=show).serve()


asyncio.run(main())
