"""The mesh from code that is not async: a script, a notebook, a web handler. Runs offline, inside this process.

    python examples/sync_script.py

`with Mesh(...)` runs the mesh on a thread of its own, and the tools are ordinary sync tools. The two agents share one
process here, so they meet by the memory transport; with `registry=` and `api_key=` they are anywhere.
"""

from __future__ import annotations

import threading

from chatixia_langchain import Incoming, Mesh, MeshAgent, MeshToolkit


async def librarian(message: Incoming) -> str:
    """An agent may be a plain async function."""
    return f"The book about {message.content} is on shelf {len(message.content)}."


with Mesh("librarian", transport="memory", description="finds books") as there, Mesh("me", transport="memory") as here:
    threading.Thread(target=there.call_sync, args=(MeshAgent(there, librarian).serve,), daemon=True).start()
    here.sync.wait_for_peer("librarian")

    tools = {tool.name: tool for tool in MeshToolkit(here).get_tools()}
    print(tools["mesh_list_peers"].invoke({}))
    print(tools["mesh_ask"].invoke({"peer": "librarian", "message": "gulls"}))
    print(tools["mesh_ask"].invoke({"type": "tool_call", "id": "1", "name": "mesh_ask",
                                    "args": {"peer": "nobody", "message": "hello?"}}).content)  # fmt: skip
