"""`mesh_ask_many`: one question to several agents at once, one result for each."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableConfig
from pydantic import BaseModel, Field

from ..agent import text
from ..errors import MeshError
from ..mesh.budget import Usage
from ..mesh.types import Reply
from .approval import ask_human, resume
from .base import Call, Injected, artifact
from .door import DoorTool

MAX_ASKED = 64  # agents in one call: each is a request of its own, and each answer is read by the model
MAX_ANSWER_CHARS = 64_000  # of all answers together, shared out evenly: what a model can still weigh


class AskManyInput(BaseModel):
    """Arguments of a question to many."""

    message: str = Field(description="What to ask. Self-contained: those agents cannot see this conversation.")
    peers: list[str] | None = Field(
        default=None, description="The agents to ask, as mesh_list_peers names them; all of them when left out."
    )
    skill: str | None = Field(default=None, description="Ask only agents that tell of this skill.")
    k: int | None = Field(default=None, description="Ask at most so many.")
    quorum: int | None = Field(default=None, description="Enough answers: the others are stopped then.")
    deadline_s: float | None = Field(default=None, description="Seconds to wait; what is there by then counts.")
    runtime: Injected = None


class MeshAskManyTool(DoorTool):
    """Ask several agents the same; a failure of one is its own result and spoils no other.

    Instantiation:
        By `MeshToolkit(mesh).get_tools()`, or by `MeshMiddleware(mesh)`.

    Invocation:
        `await tool.ainvoke({"message": "Is it spam?", "skill": "judge", "quorum": 2, "deadline_s": 20})`. The artifact
        has a `MeshToolArtifact` or `{"error", "retryable", "executed"}` for each peer.

    Within an agent:
        With a quorum the agents that are not needed any more are told to stop. Where an agent waits for a human, this
        graph asks its own: one peer after the other, and who answered at once is not asked again.
    """

    name: str = "mesh_ask_many"
    description: str = text.ASK_MANY
    args_schema: Any = AskManyInput

    async def _work(
        self, arguments: dict[str, Any], runtime: Any, config: RunnableConfig | None
    ) -> tuple[str, dict[str, Any]]:
        call, k = Call.of(self.mesh.name, runtime, config), arguments.get("k")
        results = await self.mesh.ask_many(
            arguments["message"],
            to=self._named(arguments.get("peers")),
            skill=arguments.get("skill"),
            k=MAX_ASKED if k is None else min(k, MAX_ASKED),
            quorum=arguments.get("quorum"),
            timeout=arguments.get("deadline_s"),
            **call.options(),
        )
        if not results:
            raise MeshError(text.nobody_to_ask(arguments.get("skill")), code="peer_unreachable", executed="no")
        artifacts: dict[str, Any] = {}
        for peer, result in results.items():
            results[peer], usage = await self._decided(result, call, arguments.get("deadline_s"))
            artifacts[peer] = _artifact(results[peer], usage)
        return text.answers(results, MAX_ANSWER_CHARS // len(results)), artifacts

    async def _decided(
        self, result: Reply | MeshError, call: Call, deadline_s: float | None
    ) -> tuple[Reply | MeshError, Usage]:
        """The answer once humans decided what the peer's agent waits for, and what it used.

        Raises GraphInterrupt until they did: then this call runs again, and the peers answer again.
        """
        spent, of = Usage(), "" if isinstance(result, MeshError) else result.message_id
        try:
            while isinstance(result, Reply):
                spent.add_peer(result.peer, result.usage)
                if not result.interrupts:
                    return result, spent.peers[result.peer]
                values = ask_human(result, of, resumable=call.message_id is not None)
                result = await self.mesh.ask(result.peer, "", timeout=deadline_s, **resume(result, of, values))
        except MeshError as exc:  # nobody can be asked here, or the peer failed then: its own result, as any failure
            result = exc
        return result, Usage()

    def _named(self, peers: list[str] | None) -> list[str] | None:
        if peers is not None:
            if len(peers) > MAX_ASKED:
                raise ValueError(f"{len(peers)} agents are named, at most {MAX_ASKED} can be asked at once")
            self._check(*peers)
            return peers
        return None if self.allow is None else [p.id for p in self._allowed() if p.state != "offline"]


def _artifact(result: Reply | MeshError, usage: Usage) -> dict[str, Any]:
    if isinstance(result, Reply):
        return dict(artifact(result, usage))
    return {"error": result.code, "retryable": result.retryable, "executed": result.executed}
