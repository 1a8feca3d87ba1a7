"""A peer's answer as a model's: what every LangChain mode and callback knows how to follow.

- `RemoteRun` is one request: a plain ask, or a stream that is read step by step
- `RemoteModel` is the chat model whose calls are the steps of the peer. It is a real one, so LangChain itself reports
  the tokens to `astream_events`, `stream_mode="messages"`, callbacks and tracers, and says if anyone wants them
- its runs have the tag `chatixia:remote`: who counts tokens of an agent leaves them out, they come with the reply
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field

from ..agent import text
from ..mesh.budget import Usage
from ..mesh.mesh import Mesh
from ..mesh.stream import ReplyStream, SyncReplyStream
from ..mesh.types import Reply, ReplyChunk
from .base import artifact, illegal
from .listeners import Listeners


@contextmanager
def _sendable() -> Iterator[None]:
    """What the mesh cannot send is whoever named the peer or wrote the text to mend: a MeshError, no bug of ours."""
    try:
        yield
    except ValueError as exc:
        raise illegal(exc) from exc


class RemoteRun:
    """One request to a peer, by `ask` or by `ask_stream`, and its steps. Close it, however it ends.

    Raises MeshError, what cannot be sent included.
    """

    def __init__(self, mesh: Mesh, peer: str, content: str, options: dict[str, Any], listeners: Listeners) -> None:
        self.mesh, self.peer, self.content, self.options = mesh, peer, content, options
        self.listeners = listeners
        self.reply: Reply | None = None  # set when the peer is done
        self._stream: ReplyStream | None = None
        self._blocking: SyncReplyStream | None = None
        self._ahead: ReplyChunk | None = None  # the first chunk of the next step: only it tells that a step ended

    async def aask(self) -> Reply:
        """Ask without a stream."""
        with _sendable():
            self.reply = await self.mesh.ask(self.peer, self.content, **self.options)
        if not self.reply.interrupts:
            await self.listeners.ahear(self.reply.content, 0)
        return self.reply

    def ask(self) -> Reply:
        """`aask` for code that is not async."""
        with _sendable():
            self.reply = self.mesh.sync.ask(self.peer, self.content, **self.options)
        if not self.reply.interrupts:
            self.listeners.hear(self.reply.content, 0)
        return self.reply

    async def astep(self) -> AsyncIterator[str]:
        """The texts of the next step; after the last one `reply` is set."""
        stream = self._stream = self._stream or self.mesh.ask_stream(self.peer, self.content, **self.options)
        with _sendable():
            chunk = self._ahead or await anext(stream, None)
        self._ahead, step = None, 0 if chunk is None else chunk.step
        while chunk is not None and chunk.step == step and not _paused(stream):
            await self.listeners.ahear(chunk.text, step)
            yield chunk.text
            chunk = await anext(stream, None)
        self._ahead = chunk
        if chunk is None or _paused(stream):
            self.reply = await stream.reply()

    def step(self) -> Iterator[str]:
        """`astep` for code that is not async."""
        if self._blocking is None:
            self._blocking = self.mesh.sync.ask_stream(self.peer, self.content, **self.options)
        stream = self._blocking
        with _sendable():
            chunk = self._ahead or next(stream, None)
        self._ahead, step = None, 0 if chunk is None else chunk.step
        while chunk is not None and chunk.step == step and not _paused(stream):
            self.listeners.hear(chunk.text, step)
            yield chunk.text
            chunk = next(stream, None)
        self._ahead = chunk
        if chunk is None or _paused(stream):
            self.reply = stream.reply

    async def aclose(self) -> None:
        """End it; an unfinished run of the peer is cancelled."""
        if self._stream is not None:
            await self._stream.aclose()

    def close(self) -> None:
        """`aclose` for code that is not async."""
        if self._blocking is not None:
            self._blocking.close()


def _paused(stream: ReplyStream | SyncReplyStream) -> bool:
    """True when the reply is there and says that the peer waits for a human: its text is no part of the answer."""
    return stream.whole is not None and bool(stream.whole.interrupts)


class RemoteModel(BaseChatModel):
    """The model of a peer, as far as this side sees it: each call is the next step of one `RemoteRun`."""

    run: Any = Field(exclude=True, repr=False)
    streaming: bool = False  # True: `invoke` streams. Left out, LangChain decides: it does where its own handlers are
    cache: Any = False  # an answer of a peer is for one conversation; a cache would give it to another

    def __repr__(self) -> str:
        return f"RemoteModel(peer={self.run.peer!r})"  # LangChain asks for it at every call; pydantic's takes 0.3 ms

    @property
    def _llm_type(self) -> str:
        return "chatixia-mesh"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return LangSmithParams(
            ls_provider="chatixia_mesh", ls_model_name=model_name(self.run.peer), ls_model_type="chat"
        )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _result(self.run.ask())

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _result(await self.run.aask())

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for piece in self.run.step():
            yield _piece(self.run.peer, piece)
        yield _last(self.run)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async for piece in self.run.astep():
            yield _piece(self.run.peer, piece)
        yield _last(self.run)


def _piece(peer: str, piece: str) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(content=piece, name=text.safe_name(peer)))


def _last(run: RemoteRun) -> ChatGenerationChunk:
    """The end of a step; that of the last one carries what only the reply tells."""
    known = {} if run.reply is None else told(run.reply, run.reply.usage)
    return ChatGenerationChunk(
        message=AIMessageChunk(content="", name=text.safe_name(run.peer), chunk_position="last", **known)
    )


def _result(reply: Reply) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=message(reply, reply.usage))])


def message(reply: Reply, usage: Usage, id: str | None = None) -> AIMessage:
    """The reply as a message of an agent that is named after the peer."""
    return AIMessage(
        "" if reply.interrupts else reply.content, name=text.safe_name(reply.peer), id=id, **told(reply, usage)
    )


def told(reply: Reply, usage: Usage) -> dict[str, Any]:
    """What a reply tells beside its text: `response_metadata`, and `usage_metadata` if the peer said what it used."""
    known: dict[str, Any] = {
        "response_metadata": {"model_name": model_name(reply.peer), "mesh": dict(artifact(reply, usage))}
    }
    total = usage.total()
    if total["total_tokens"]:
        known["usage_metadata"] = UsageMetadata(
            input_tokens=total["input_tokens"],
            output_tokens=total["output_tokens"],
            total_tokens=total["total_tokens"],
        )
    return known


def model_name(peer: str) -> str:
    """How a peer is named where LangChain names models: tokens summed by model are then summed by peer."""
    return f"mesh:{peer}"
