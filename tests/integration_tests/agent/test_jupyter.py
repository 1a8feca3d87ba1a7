"""In a notebook's kernel: by top-level await, by the sync door, and what is said of a cell that cannot work."""

from __future__ import annotations

import os
import textwrap
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("langchain")

pytestmark = [
    pytest.mark.timeout(180),
    # jupyter's own: it looks for its old folders, and closes its sockets when they are collected
    pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter.*", "ignore::ResourceWarning"),
]

AWAIT = """
    import asyncio
    from chatixia_langchain import LocalMesh, MeshAgent, MeshTool
    from chatixia_langchain.testing import ScriptedChat, ask_then_answer
    from chatixia_langchain.tools.remote_agent import RemoteAgent

    async def echo(message):
        for word in ("echo: ", message.content):
            await message.chunk(word)
        return "echo: " + message.content

    local = await LocalMesh(transport="memory").start()
    a, b = await local.join("a"), await local.join("b")
    serving = asyncio.create_task(MeshAgent(b, echo).serve())
    await a.wait_for_peer("b")
    """
ASK = """
    print(await MeshTool(a, peer="b").ainvoke({"message": "one"}))
    print("".join([c.content async for c in RemoteAgent(a, "b").astream("two")]))
    """
AGENT = """
    from langchain.agents import create_agent
    rule = ask_then_answer("ask_b", lambda q: {"message": q}, lambda r: "it said " + r)
    agent = create_agent(ScriptedChat(rule=rule), [MeshTool(a, peer="b")])
    out = await agent.ainvoke({"messages": [("user", "three")]})
    print(out["messages"][-1].text)
    """
ON_THE_KERNELS_LOOP = """
    for call in (lambda: MeshTool(a, peer="b").invoke({"message": "x"}),
                 lambda: agent.invoke({"messages": [("user", "x")]})):
        try:
            call()
        except RuntimeError as exc:
            print("await" in str(exc))
    """
SYNC = """
    import threading
    from chatixia_langchain import Mesh
    from chatixia_langchain.transport.memory import MemoryHub

    hub = MemoryHub()
    with Mesh("d", transport=hub.transport("d")) as d, Mesh("c", transport=hub.transport("c")) as c:
        threading.Thread(target=lambda: d.call_sync(MeshAgent(d, echo).serve), daemon=True).start()
        c.sync.wait_for_peer("d")
        print(MeshTool(c, peer="d").invoke({"message": "four"}))
        print("".join(chunk.content for chunk in RemoteAgent(c, "d").stream("five")))
        agent = create_agent(ScriptedChat(rule=ask_then_answer("ask_d", lambda q: {"message": q}, str)),
                             [MeshTool(c, peer="d")])
        print(agent.invoke({"messages": [("user", "six")]})["messages"][-1].text)
    """
CLOSE = """
    serving.cancel()
    await local.aclose()
    print(a.closed, b.closed)
    """


def executed(*cells: str) -> list[str]:
    """What each cell printed, in a kernel of its own. A cell that raises fails the test, and is shown."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(textwrap.dedent(c).strip()) for c in cells])
    env = {k: v for k, v in os.environ.items() if not k.startswith("CHATIXIA_")}
    nbclient.NotebookClient(book, timeout=90, kernel_name="python3").execute(env=env)
    return ["".join(_text(output) for output in cell.outputs) for cell in book.cells]


def _text(output: Any) -> str:
    return str(output.get("text", "")) if output.output_type == "stream" and output.name == "stdout" else ""


def test_a_mesh_in_cells() -> None:
    printed = executed(AWAIT, ASK, AGENT, ON_THE_KERNELS_LOOP, SYNC, ASK, CLOSE)
    assert printed == [
        "",
        "echo: one\necho: two\n",
        "it said echo: three\n",
        "True\nTrue\n",
        "echo: four\necho: five\necho: six\n",
        "echo: one\necho: two\n",
        "True True\n",
    ]
