"""Human approval over real data channels, with either process killed while it waits: one effect, never two.

Everything that must survive is in files: the checkpointers of both graphs, and the agent's `state_dir`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from chatixia_langchain import InboundPolicy, LocalMesh, Mesh, MeshAgent, MeshError, MeshTool, Reply
from chatixia_langchain.testing import ScriptedChat, ask_then_answer

from ..mesh.conftest import local as local  # a fixture
from ..mesh.conftest import sidecar_binary

agents = pytest.importorskip("langchain.agents")
memory = pytest.importorskip("langgraph.checkpoint.memory")
pytest.importorskip("langgraph.checkpoint.sqlite.aio")
types = pytest.importorskip("langgraph.types")

HERE = Path(__file__).parent
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith("CHATIXIA_")}

pytestmark = [pytest.mark.sidecar, pytest.mark.slow]  # a dozen processes that import langchain


class Program:
    """A process that tells what it does in lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self, **want: Any) -> dict[str, Any]:
        """The next line that has all of `want`."""
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            while True:
                raw = await self.process.stdout.readline()
                assert raw, f"the program ended, {want} was awaited"
                said: dict[str, Any] = json.loads(raw)
                if want.items() <= said.items():
                    return said

    async def kill(self) -> None:
        """As a crash: no goodbye."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


Start = Callable[..., Any]


@pytest.fixture
async def start(local: LocalMesh) -> AsyncIterator[Start]:
    """`await start("approval_agent.py", folder, name, ...)` runs a program as the member `name`."""
    running: list[Program] = []

    async def run(program: str, folder: Path, name: str, *more: str) -> Program:
        env = CLEAN | {
            "CHATIXIA_REGISTRY_URL": local.registry_url,
            "CHATIXIA_API_KEY": local.api_key(name),
            "SIDECAR_BINARY": sidecar_binary(),
            "CHATIXIA_TRANSPORT": "sidecar",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(HERE / program), str(folder), name, *more, env=env, stdout=asyncio.subprocess.PIPE
        )
        running.append(Program(process))
        return running[-1]

    yield run
    for program in running:
        await program.kill()


def effects(folder: Path) -> list[str]:
    path = folder / "effects"
    return path.read_text().split() if path.exists() else []


async def decide(mesh: Mesh, paused: Reply, value: str, message_id: str) -> Reply:
    values = {i.id: value for i in paused.interrupts}
    return await mesh.ask(
        "b",
        "",
        conversation=paused.conversation,
        message_id=message_id,
        meta={"resume": {"of": paused.message_id, "values": values}},
        timeout=60,
    )


async def test_an_agent_killed_while_it_waits_goes_on(local: LocalMesh, start: Start, tmp_path: Path) -> None:
    a = await local.join("a")
    agent = await start("approval_agent.py", tmp_path, "b")
    await a.wait_for_peer("b", timeout=60)
    paused = await a.ask("b", "launch rocket", conversation="c", message_id="m1", timeout=60)
    assert [i.value for i in paused.interrupts] == [{"question": "launch rocket?"}]
    await agent.kill()
    agent = await start("approval_agent.py", tmp_path, "b")
    await agent.line(kind="ready")
    again = await a.ask("b", "launch rocket", conversation="c", message_id="m1", timeout=60)
    assert again.interrupts == paused.interrupts
    assert effects(tmp_path) == []
    assert (await decide(a, again, "yes", "r1")).content == "rocket is launched"
    await agent.kill()
    agent = await start("approval_agent.py", tmp_path, "b")
    await agent.line(kind="ready")
    assert (await decide(a, again, "yes", "r1")).content == "rocket is launched", "the decision came again"
    assert (await a.ask("b", "hi", conversation="c", timeout=60)).content == "heard 2"
    assert effects(tmp_path) == ["rocket"]


async def test_an_agent_killed_in_the_middle_of_the_effect_asks_again(
    local: LocalMesh, start: Start, tmp_path: Path
) -> None:
    """The repeated decision is not taken for a new one: a human is asked, who can see what has happened."""
    a = await local.join("a")
    agent = await start("approval_agent.py", tmp_path, "b")
    await a.wait_for_peer("b", timeout=60)
    paused = await a.ask("b", "launch rocket", conversation="c", timeout=60)
    decided = asyncio.create_task(decide(a, paused, "hang", "r1"))
    await agent.line(kind="effect")
    await agent.kill()
    with pytest.raises(MeshError) as caught:
        await decided
    assert caught.value.executed == "unknown", "the agent went away in the middle"
    agent = await start("approval_agent.py", tmp_path, "b")
    await agent.line(kind="ready")
    again = await decide(a, paused, "hang", "r1")
    assert again.interrupts == paused.interrupts
    assert effects(tmp_path) == ["rocket"]
    assert (await decide(a, paused, "it flies", "r2")).content == "rocket stays: it flies"
    assert effects(tmp_path) == ["rocket"]


async def test_an_agent_killed_in_the_middle_of_a_turn_does_not_run_it_again(
    local: LocalMesh, start: Start, tmp_path: Path
) -> None:
    """What came is on disk before a tool acts: so the same message is known when it comes again."""
    a = await local.join("a")
    agent = await start("approval_agent.py", tmp_path, "b")
    await a.wait_for_peer("b", timeout=60)
    cut = asyncio.create_task(a.ask("b", "act now", conversation="c", message_id="m1", timeout=60))
    await agent.line(kind="effect")
    await agent.kill()
    await asyncio.gather(cut, return_exceptions=True)
    agent = await start("approval_agent.py", tmp_path, "b")
    await agent.line(kind="ready")
    with pytest.raises(MeshError, match="in the middle of this request") as caught:
        await a.ask("b", "act now", conversation="c", message_id="m1", timeout=60)
    assert caught.value.executed == "unknown"
    assert (await a.ask("b", "hi", conversation="c", timeout=60)).content == "heard 2"
    assert effects(tmp_path) == ["now"]


async def test_an_asker_killed_while_it_waits_goes_on(local: LocalMesh, start: Start, tmp_path: Path) -> None:
    await start("approval_agent.py", tmp_path, "b")
    asker = await start("approval_asker.py", tmp_path, "a", "b", "launch rocket")
    (wanted,) = (await asker.line())["waits"]
    assert (wanted["peer"], wanted["value"]) == ("b", {"question": "launch rocket?"})
    await asker.kill()
    asker = await start("approval_asker.py", tmp_path, "a", "b", "--resume", "yes")
    assert (await asker.line()) == {"waits": [], "said": "b says: rocket is launched"}
    assert effects(tmp_path) == ["rocket"]


async def test_both_killed_while_they_wait_go_on(local: LocalMesh, start: Start, tmp_path: Path) -> None:
    agent = await start("approval_agent.py", tmp_path, "b")
    asker = await start("approval_asker.py", tmp_path, "a", "b", "launch rocket")
    assert (await asker.line())["waits"]
    await asyncio.gather(asker.kill(), agent.kill())
    await start("approval_agent.py", tmp_path, "b")
    asker = await start("approval_asker.py", tmp_path, "a", "b", "--resume", "yes")
    assert (await asker.line()) == {"waits": [], "said": "b says: rocket is launched"}
    assert effects(tmp_path) == ["rocket"]


async def test_two_levels_deep_with_the_deepest_killed(local: LocalMesh, start: Start, tmp_path: Path) -> None:
    """A's graph waits because B's waits because C's does; the yes goes all the way down, and the answer back up."""

    def graph(mesh: Mesh, peer: str) -> Any:
        rule = ask_then_answer(f"ask_{peer}", _question, lambda r: f"{peer} says: {r}")
        return agents.create_agent(
            ScriptedChat(rule=rule), [MeshTool(mesh, peer=peer, timeout=60)], checkpointer=memory.InMemorySaver()
        )

    a, middle = await local.join("a"), await local.join("middle")
    deepest = await start("approval_agent.py", tmp_path, "b")
    await asyncio.gather(middle.wait_for_peer("b", timeout=60), a.wait_for_peer("middle", timeout=60))
    serving = asyncio.create_task(MeshAgent(middle, graph(middle, "b"), policy=InboundPolicy(tools=["ask_b"])).serve())
    try:
        outer, config = graph(a, "middle"), {"configurable": {"thread_id": "T"}}
        out = await outer.ainvoke({"messages": [HumanMessage("launch rocket")]}, config)
        (wanted,) = out["__interrupt__"]
        assert wanted.value["peer"] == "middle"
        assert (wanted.value["value"]["peer"], wanted.value["value"]["value"]) == ("b", {"question": "launch rocket?"})
        await deepest.kill()
        await (await start("approval_agent.py", tmp_path, "b")).line(kind="ready")
        out = await outer.ainvoke(types.Command(resume="yes"), config)
        assert out["messages"][-1].text == "middle says: b says: rocket is launched"
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    assert effects(tmp_path) == ["rocket"]


def _question(text: str) -> dict[str, Any]:
    """The question itself, without the fence that a peer's text comes in."""
    return {"message": text.split("\n")[2] if "\n" in text else text}
