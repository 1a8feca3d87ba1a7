"""A turn's LangSmith run stands under the asker's run where the policy trusts the asker, and nowhere else.

Offline: runs go to a client that keeps them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from langchain_core.runnables import RunnableLambda
from langsmith import Client
from langsmith.run_helpers import get_tracing_context, tracing_context

from chatixia_langchain import ChatLoop, InboundPolicy, Incoming, LocalMesh, Mesh, MeshAgent
from chatixia_langchain.agent.trace import caller_run, under_caller
from chatixia_langchain.testing import ScriptedChat

ID = "5aa01e4e-06d2-4b0b-8f3c-000000000001"
RUN = f"20261124T120000000000Z{ID}"


class Kept(Client):
    """A LangSmith client that sends nothing and keeps what it was told."""

    def __init__(self) -> None:
        super().__init__(api_url="http://127.0.0.1:9", api_key="offline", auto_batch_tracing=False)
        self.kept: dict[str, dict[str, Any]] = {}

    def create_run(self, name: str, inputs: dict[str, Any], run_type: Any, **more: Any) -> None:
        self.kept[name] = {"inputs": inputs, **more}

    def update_run(self, run_id: Any, **more: Any) -> None:
        """Nothing: where a run stands is told when it begins."""


@pytest.fixture
def client() -> Kept:
    return Kept()


@asynccontextmanager
async def served(client: Kept, **policy: Any) -> AsyncIterator[Mesh]:
    """Someone who may ask an agent `b`, which traces to `client`."""
    async with LocalMesh(transport="memory") as local:
        a, b = await local.join("a"), await local.join("b")
        loop = ChatLoop(ScriptedChat(rule=lambda messages, _: "ok"))
        with tracing_context(enabled=True, client=client):
            serving = asyncio.create_task(MeshAgent(b, loop, policy=InboundPolicy(**policy)).serve())
        try:
            yield a
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


async def asked_in_a_run(mesh: Mesh, client: Kept, **more: Any) -> None:
    async def ask(question: str) -> str:
        return (await mesh.ask("b", question, **more)).content

    with tracing_context(enabled=True, client=client):
        assert await RunnableLambda(ask, name="caller").ainvoke("hello") == "ok"


@pytest.mark.parametrize("trust", [True, False])
async def test_remote_run_is_a_child_of_the_callers_only_when_trusted(client: Kept, trust: bool) -> None:
    mine = Kept()
    async with served(client, trust_trace=trust) as a:
        await asked_in_a_run(a, mine)
    caller, turn = mine.kept["caller"], client.kept["mesh-turn"]
    assert "mesh-turn" not in mine.kept, "each side tells its own service"
    assert (turn["trace_id"] == caller["trace_id"]) is trust
    assert turn.get("parent_run_id") == (caller["id"] if trust else None)
    assert turn["dotted_order"].startswith(caller["dotted_order"]) is trust


async def test_only_the_place_is_taken_from_a_peer(client: Kept) -> None:
    """Baggage could name a project, an address with a key, or metadata: none of it is read."""
    evil = {"langsmith-trace": RUN, "baggage": "langsmith-project=evil,langsmith-metadata=%7B%22x%22%3A1%7D"}
    async with served(client, trust_trace=True) as a:
        await a.ask("b", "one", meta={"langsmith": evil})
        assert client.kept["mesh-turn"].get("parent_run_id") is None
        await a.ask("b", "two", meta={"langsmith": RUN, "baggage": evil["baggage"]})
    turn = client.kept["mesh-turn"]
    assert str(turn["parent_run_id"]) == ID
    assert turn["session_name"] != "evil"
    assert "x" not in turn["extra"]["metadata"]


@pytest.mark.parametrize(
    "said",
    ["", "x", f"{RUN}\n", f"{RUN}.", RUN.replace("T", " "), f"{RUN}." * 500 + RUN, 5, None, {"langsmith-trace": RUN}],
)
def test_malformed_run_is_no_run(said: Any) -> None:
    assert caller_run(Incoming("p", "x", "c", "m", True, meta={"langsmith": said})) == ""


def test_a_peer_cannot_switch_tracing_on(client: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    message = Incoming("p", "x", "c", "m", True, meta={"langsmith": RUN})
    with tracing_context(client=client), under_caller(message, trust=True):
        assert get_tracing_context()["parent"] is None
    with tracing_context(client=client, enabled=True), under_caller(message, trust=True):
        assert get_tracing_context()["parent"].id == UUID(ID)
        assert get_tracing_context()["client"] is client
