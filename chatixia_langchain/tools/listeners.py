"""Who follows a tool or an agent while it runs: whether to stream at all, and where else each text goes.

Tokens reach callbacks, `astream_events` and `stream_mode="messages"` through the model run (see `remote_run`). Here are
the other three: the custom event `mesh_delta`, `stream_mode="custom"` and `stream_mode="tools"`.

How a listener is found, with public API alone:
- a callback handler listens if its class has its own `on_llm_new_token` or `on_custom_event`. Tracers have too, and
  do not count: they tell the end result, and one that is always on must not make every ask a stream
- handlers behind `astream_events` and the stream modes "messages" and "tools" have `tap_output_aiter`
- langgraph gives every node a stream writer; that of a graph nobody reads is a function without a closure, which
  leads nowhere. If this guess is wrong some day, the text is still written, once, as a whole

langgraph hands "tools" out at the end of a step when it is the only mode, at once beside "messages" or "custom".
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from inspect import isfunction
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackHandler,
    BaseCallbackHandler,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers import BaseTracer

EVENT = "mesh_delta"


class Listeners:
    """The listeners of one run of a tool or an agent that asks `peer`."""

    def __init__(self, peer: str, run_manager: Any, runtime: Any) -> None:
        self._peer = peer
        handlers = [] if run_manager is None else run_manager.handlers
        self.any_handler = bool(handlers)
        self._config: RunnableConfig | None = None
        if any(_has_own(h, "on_custom_event") for h in handlers):
            self._config = {"callbacks": run_manager.get_child()}
        self._write = _writer()
        self._delta: Callable[[Any], None] | None = getattr(runtime, "emit_output_delta", None)
        self.stream = self._config is not None or _leads_somewhere(self._write) or _follow(handlers)

    async def ahear(self, text: str, step: int) -> None:
        """Tell them a piece of the answer."""
        if self._config is not None and text:
            await adispatch_custom_event(EVENT, self._event(text, step), config=self._config)
        self._tell(text, step)

    def hear(self, text: str, step: int) -> None:
        """`ahear` for code that is not async."""
        if self._config is not None and text:
            dispatch_custom_event(EVENT, self._event(text, step), config=self._config)
        self._tell(text, step)

    def _tell(self, text: str, step: int) -> None:
        if not text:
            return
        if self._write is not None:
            self._write({EVENT: self._event(text, step)})
        if self._delta is not None:
            self._delta(text)

    def _event(self, text: str, step: int) -> dict[str, Any]:
        return {"peer": self._peer, "text": text, "step": step}


def _follow(handlers: Iterable[BaseCallbackHandler]) -> bool:
    return any(
        hasattr(h, "tap_output_aiter") or (_has_own(h, "on_llm_new_token") and not isinstance(h, BaseTracer))
        for h in handlers
    )


def _has_own(handler: BaseCallbackHandler, method: str) -> bool:
    theirs = getattr(type(handler), method, None)
    return theirs not in (getattr(BaseCallbackHandler, method), getattr(AsyncCallbackHandler, method))


def _writer() -> Callable[[Any], None] | None:
    """The stream writer of the graph this runs in; None outside of graphs."""
    config = sys.modules.get("langgraph.config")  # not loaded: there is no graph
    if config is None:
        return None
    try:
        writer: Callable[[Any], None] = config.get_stream_writer()
    except (RuntimeError, KeyError):
        return None
    return writer


def _leads_somewhere(writer: Callable[[Any], None] | None) -> bool:
    return writer is not None and not (isfunction(writer) and writer.__closure__ is None)
