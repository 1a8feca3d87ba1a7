"""The asker of `test_approval.py`, in a process of its own that may be killed while its graph is paused.

python approval_asker.py FOLDER NAME PEER QUESTION          prints what the graph waits for, and hangs
python approval_asker.py FOLDER NAME PEER --resume VALUE    goes on with the same thread, prints what it says
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command

from chatixia_langchain import Mesh, MeshTool
from chatixia_langchain.testing import ScriptedChat, ask_then_answer

FOLDER, NAME, PEER, *WHAT = sys.argv[1:]


async def main() -> None:
    path = str(Path(FOLDER) / "asker.sqlite")
    async with AsyncSqliteSaver.from_conn_string(path) as saver, Mesh(NAME) as mesh:
        await mesh.wait_for_peer(PEER, timeout=60)
        rule = ask_then_answer(f"ask_{PEER}", lambda q: {"message": q}, lambda r: f"{PEER} says: {r}")
        graph = create_agent(ScriptedChat(rule=rule), [MeshTool(mesh, peer=PEER, timeout=60)], checkpointer=saver)
        given: Any = Command(resume=WHAT[1]) if WHAT[0] == "--resume" else {"messages": [HumanMessage(WHAT[0])]}
        out = await graph.ainvoke(given, {"configurable": {"thread_id": "T"}})
        waits = [i.value for i in out.get("__interrupt__", ())]
        print(json.dumps({"waits": waits, "said": out["messages"][-1].text}), flush=True)
        if waits:
            await asyncio.sleep(600)


asyncio.run(main())
