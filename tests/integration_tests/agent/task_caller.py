"""A caller in a process of its own, that is killed: one step of an agent whose state is a SQLite file.

    python task_caller.py DATABASE TOOL [JSON arguments]

Prints what the tool said, and waits to be killed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from chatixia_langchain import Mesh
from chatixia_langchain.testing import ScriptedChat
from chatixia_langchain.tools.middleware import MeshMiddleware

THREAD: Any = {"configurable": {"thread_id": "t"}}


def calls(name: str, args: dict[str, Any]) -> ScriptedChat:
    """Calls one tool, on the only task there is, and says what came of it."""

    def rule(messages: list[BaseMessage], _: tuple[str, ...]) -> AIMessage | str:
        if isinstance(messages[-1], ToolMessage):
            return messages[-1].text
        known = [id_ for m in messages if isinstance(m, ToolMessage) for id_ in m.artifact]
        given = args if name == "mesh_start_task" else {"task_id": known[0], **args}
        return AIMessage("", tool_calls=[{"name": name, "args": given, "id": f"c{len(messages)}"}])

    return ScriptedChat(rule=rule)


async def main(database: str, name: str, args: dict[str, Any]) -> None:
    """One turn of the agent, then nothing until the end."""
    async with Mesh("a") as mesh, AsyncSqliteSaver.from_conn_string(database) as saver:
        await mesh.wait_for_peer("b", timeout=30)
        agent = create_agent(calls(name, args), middleware=[MeshMiddleware(mesh)], checkpointer=saver)
        result = await agent.ainvoke({"messages": [HumanMessage("go")]}, THREAD)
        print(json.dumps(result["messages"][-1].text), flush=True)
        await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}))
