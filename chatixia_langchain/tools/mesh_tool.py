"""`MeshTool`: one peer as one tool, or any peer by name."""

# Annotations are no strings here: LangChain reads those of `_run` and `_arun` on each call, and would compile them.
from collections.abc import Sequence
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForToolRun, CallbackManagerForToolRun
from langchain_core.runnables import RunnableConfig
from pydantic import BaseModel, Field

from ..agent import text
from ..errors import MeshError, PeerUnreachable
from ..mesh.mesh import Mesh
from .base import Call, Injected, MeshBaseTool, MeshToolArtifact, MeshToolError, allow_list, artifact, tool_runtime
from .exchange import Exchange
from .skill import arguments_model, find_skill, given


class AskPeerInput(BaseModel):
    """Arguments of a tool that is one peer."""

    message: str = Field(description="What to ask. Self-contained: that agent cannot see this conversation.")
    runtime: Injected = None


class AskAnyInput(BaseModel):
    """Arguments of a tool that asks any peer."""

    peer: str = Field(description="The agent to ask, as mesh_list_peers names it.")
    message: str = Field(description="What to ask. Self-contained: that agent cannot see this conversation.")
    runtime: Injected = None


class MeshTool(MeshBaseTool):
    """Ask an agent on another machine, and get its answer.

    Setup:
        The mesh must be started, in this loop, another loop or (by `with Mesh(...)`) a thread of its own.

    Instantiation:
        `MeshTool(mesh, peer="researcher")` is one peer as one tool, named `ask_researcher`; `MeshTool(mesh)` takes
        the peer as an argument and is named `mesh_ask`. `MeshTool(mesh, peer="researcher", skill="search")` calls one
        skill with the typed arguments that the peer's card gives it, and is named `researcher_search`. `timeout` is in
        seconds (default: the mesh's `request_timeout_s`); `allow` limits whom the model may ask.

    Invocation:
        `tool.invoke({"message": "hello"})`, or with a tool call for a `ToolMessage` whose `artifact` is a
        `MeshToolArtifact`. A sync call on the mesh's own loop raises RuntimeError at once: use `ainvoke` there.

    Within an agent:
        `create_agent(model, [MeshTool(mesh, peer="researcher")])`. The message id comes from thread and tool call, so
        a tool node that runs again is answered again and not worked on again. Whoever follows the agent's stream sees
        the peer's tokens while it writes. If the peer's agent pauses for a human, so does the graph, when it has a
        checkpointer and a thread: `interrupt()` with the peer's name on it.

    Raises ValueError when it is made with a skill that the peer's card does not have, or for a peer that is not known
    yet. A call raises MeshToolError (a ToolException, turned into an error ToolMessage by default) when the peer or the
    way to it failed.
    """

    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    args_schema: Any = AskAnyInput
    peer: str | None = None
    skill: str | None = None
    timeout_s: float | None = None
    allow: frozenset[str] | None = None

    def __init__(
        self,
        mesh: Mesh,
        *,
        peer: str | None = None,
        skill: str | None = None,
        name: str | None = None,
        description: str | None = None,
        timeout: float | None = None,
        allow: Sequence[str] | None = None,
        **more: Any,
    ) -> None:
        schema: type[BaseModel]
        if skill is not None:
            if peer is None:
                raise ValueError("skill needs peer: which agent has it?")
            entry = find_skill(mesh.peers.get(peer), peer, skill)
            schema = arguments_model(entry.get("input_schema"))
            name = name or text.safe_name(f"{peer}_{skill}")
            description = description or text.skill_description(entry, peer)
        elif peer is not None:
            schema = AskPeerInput
            name = name or text.safe_name(f"ask_{peer}")
            description = description or text.tool_description(mesh.peers.get(peer), peer)
        else:
            schema, name, description = AskAnyInput, name or "mesh_ask", description or text.ASK_ANY
        if name != text.safe_name(name):
            raise ValueError(f"tool name {name!r} is not 1 to 64 of a-z A-Z 0-9 _ -")
        super().__init__(
            mesh=mesh,  # type: ignore[call-arg]  # a pydantic field of the base
            peer=peer,
            skill=skill,
            name=name,
            description=description,
            args_schema=schema,
            timeout_s=timeout,
            allow=allow_list(allow),
            **more,
        )

    def _run(
        self,
        *,
        runtime: Any = None,
        config: RunnableConfig,  # langchain-core passes it for this very annotation, for no other
        run_manager: CallbackManagerForToolRun | None = None,
        **arguments: Any,
    ) -> tuple[str, MeshToolArtifact]:
        exchange = self._exchange(arguments, runtime, config, run_manager)
        try:
            reply = exchange.answer()
        except MeshError as exc:
            raise MeshToolError(exc) from exc
        return reply.content, artifact(reply, exchange.usage)

    async def _arun(
        self,
        *,
        runtime: Any = None,
        config: RunnableConfig,  # langchain-core passes it for this very annotation, for no other
        run_manager: AsyncCallbackManagerForToolRun | None = None,
        **arguments: Any,
    ) -> tuple[str, MeshToolArtifact]:
        exchange = self._exchange(arguments, runtime, config, run_manager)
        try:
            reply = await exchange.aanswer()
        except MeshError as exc:
            raise MeshToolError(exc) from exc
        return reply.content, artifact(reply, exchange.usage)

    def _exchange(
        self, arguments: dict[str, Any], runtime: Any, config: RunnableConfig | None, run_manager: Any
    ) -> Exchange:
        """Whom to ask, what, and the keyword arguments of `Mesh.ask`."""
        target = self.peer or arguments["peer"]
        if self.allow is not None and target not in self.allow:
            raise MeshToolError(PeerUnreachable(target, "it is not among the peers this tool may ask"))
        options: dict[str, Any] = {"timeout": self.timeout_s}
        options |= Call.of(self.mesh.name, runtime, config, to=target).options()
        content = arguments.get("message", "") if self.skill is None else ""
        if self.skill is not None:
            options |= {"skill": self.skill, "arguments": given(arguments, self.args_schema)}
        return Exchange(self.mesh, target, content, options, run_manager, tool_runtime(runtime))
