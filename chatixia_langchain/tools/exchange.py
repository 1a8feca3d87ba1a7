"""`Exchange`: one question to a peer until it is answered, with all the rounds that a human's approval adds."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.runnables import RunnableConfig

from ..agent.usage import REMOTE_TAG
from ..mesh.budget import Usage
from ..mesh.mesh import Mesh
from ..mesh.types import Reply
from . import remote_run
from .approval import ask_human, resume
from .listeners import Listeners
from .remote_run import RemoteModel, RemoteRun


class Exchange:
    """One question. `options` are keyword arguments of `Mesh.ask`; `run_manager` is that of the tool or the agent.

    All calls raise MeshError, GraphInterrupt, and RemoteInterrupted.
    """

    def __init__(
        self, mesh: Mesh, peer: str, content: str, options: dict[str, Any], run_manager: Any, runtime: Any = None
    ) -> None:
        self._mesh, self._peer, self._content, self._options = mesh, peer, content, options
        self._resumable = options.get("message_id") is not None  # else a node that runs again asks anew
        self._run_manager = run_manager
        self._listeners = Listeners(peer, run_manager, runtime)
        self._how: dict[str, Any] = {"streaming": True} if self._listeners.stream else {}
        self._spent = Usage()
        self._id: str | None = None  # under which LangChain streamed the answer
        self._of = ""  # the request that the peer paused on
        self.reply: Reply | None = None

    @property
    def usage(self) -> Usage:
        """What the peer used in all rounds."""
        return self._spent.peers.get(self._peer, Usage())

    async def aanswer(self) -> Reply:
        """Ask until there is an answer."""
        while True:
            run = self._run()
            try:
                if not self._listeners.any_handler and not self._listeners.stream:
                    await run.aask()
                while run.reply is None:
                    self._id = (await RemoteModel(run=run, **self._how).ainvoke(*self._call())).id
            finally:
                await run.aclose()
            if self._finished(run.reply):
                return run.reply

    def answer(self) -> Reply:
        """`aanswer` for code that is not async."""
        while True:
            run = self._run()
            try:
                if not self._listeners.any_handler and not self._listeners.stream:
                    run.ask()
                while run.reply is None:
                    self._id = RemoteModel(run=run, **self._how).invoke(*self._call()).id
            finally:
                run.close()
            if self._finished(run.reply):
                return run.reply

    async def astream(self) -> AsyncGenerator[AIMessageChunk, None]:
        """`aanswer`, seen while it is written. Closing it cancels the peer's run."""
        while True:
            run = self._run()
            try:
                while run.reply is None:
                    async for chunk in RemoteModel(run=run).astream(*self._call()):
                        yield chunk
            finally:
                await run.aclose()
            if self._finished(run.reply):
                return

    def stream(self) -> Generator[AIMessageChunk, None, None]:
        """`astream` for code that is not async."""
        while True:
            run = self._run()
            try:
                while run.reply is None:
                    yield from RemoteModel(run=run).stream(*self._call())
            finally:
                run.close()
            if self._finished(run.reply):
                return

    def message(self) -> AIMessage:
        """The answer as a message, with what all rounds used, and the id that its tokens had."""
        assert self.reply is not None, "the exchange is over"
        return remote_run.message(self.reply, self.usage, self._id)

    def _run(self) -> RemoteRun:
        return RemoteRun(self._mesh, self._peer, self._content, self._options, self._listeners)

    def _call(self) -> tuple[list[HumanMessage], RunnableConfig]:
        """The input and the config of a call of the model: it is a child of the tool's or the agent's run."""
        config = RunnableConfig(tags=[REMOTE_TAG], run_name=remote_run.model_name(self._peer))
        if self._run_manager is not None:
            config["callbacks"] = self._run_manager.get_child()
        return [HumanMessage(self._content)], config

    def _finished(self, reply: Reply) -> bool:
        """True when this is the answer; else the human's word becomes the next round."""
        self.reply = reply
        self._spent.add_peer(self._peer, reply.usage)
        if not reply.interrupts:
            return True
        self._of = self._of or reply.message_id
        values = ask_human(reply, self._of, resumable=self._resumable)
        self._content, self._options = "", {"timeout": self._options.get("timeout"), **resume(reply, self._of, values)}
        return False
