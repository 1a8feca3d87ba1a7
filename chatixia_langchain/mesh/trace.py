"""One trace over machines: the W3C `traceparent` that each ask carries, and spans where OpenTelemetry is in use.

- without OpenTelemetry, or before a provider is set, there are ids only: nothing is imported, nothing is recorded
- `ask_span` is the asking side (CLIENT), `turn_span` the answering one (SERVER): its parent is the peer's ask
- a LangSmith run that is active where an ask is made travels as `meta["langsmith"]`: its place, never its baggage
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random, SystemRandom
from typing import Any, Final

from ..errors import MeshError
from .types import Incoming, Reply

LANGSMITH: Final = "langsmith"
"""The key in `meta`."""

_PROCESS: Final = f"{SystemRandom().getrandbits(64):016x}"
"""The first half of the trace ids made here: with it one random number an ask is enough."""
_random_bits: Final = Random(SystemRandom().getrandbits(128)).getrandbits  # not the shared one, which programs seed

_FORM: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})\Z")


def child(parent: str = "") -> str:
    """A `traceparent` below `parent`, with a span id of its own; the first of a new trace when `parent` is none."""
    span = f"{_random_bits(64) | 1:016x}"  # zero is no id
    match = _FORM.match(parent) if parent else None
    if match is None:
        return f"00-{_PROCESS}{span}-{span}-01"
    return f"00-{match[1]}-{span}-{match[3]}"


def recording() -> bool:
    """True when this process has an OpenTelemetry provider. Imports nothing: who uses it has imported it."""
    api = sys.modules.get("opentelemetry.trace")
    return api is not None and not isinstance(api.get_tracer_provider(), api.ProxyTracerProvider)


class AskSpan:
    """The span of one ask; `header` is the `traceparent` that the ask carries."""

    def __init__(self, span: Any) -> None:
        self._span = span
        self.header = _header(span)

    def answered(self, reply: Reply) -> None:
        """Note what came back."""
        total = reply.usage.total()
        self._span.set_attributes(
            {
                "gen_ai.conversation.id": reply.conversation,
                "chatixia.message.id": reply.message_id,
                "chatixia.path": reply.path,
                "gen_ai.usage.input_tokens": total["input_tokens"],
                "gen_ai.usage.output_tokens": total["output_tokens"],
            }
        )


@contextmanager
def ask_span(peer: str, parent: str) -> Iterator[AskSpan]:
    """A CLIENT span for an ask of `peer`, below the span that is current here, else below the `traceparent` `parent`.

    Only while `recording()`.
    """
    with _span(f"mesh.ask {peer}", "CLIENT", parent, {"gen_ai.agent.name": peer}) as span:
        yield AskSpan(span)


@contextmanager
def turn_span(incoming: Incoming, agent: str = "") -> Iterator[str]:
    """A SERVER span for the turn that serves `incoming`; gives the turn's `traceparent`, for `Turn.of(trace=...)`.

    Without OpenTelemetry it only continues the peer's trace.
    """
    if not recording():
        yield child(incoming.trace)
        return
    attributes = {
        "gen_ai.agent.name": agent,
        "gen_ai.conversation.id": incoming.conversation,
        "chatixia.message.id": incoming.message_id,
        "chatixia.peer": incoming.peer,
        "chatixia.path": incoming.path,
        "chatixia.hops": incoming.hops,
    }
    with _span(f"mesh.turn {agent}".rstrip(), "SERVER", incoming.trace, attributes, remote=True) as span:
        yield _header(span)


@contextmanager
def _span(name: str, kind: str, parent: str, attributes: dict[str, Any], *, remote: bool = False) -> Iterator[Any]:
    """A current span. A peer's span is the parent of our turn even if something else is current here."""
    from opentelemetry import trace

    from .. import __version__

    tracer = trace.get_tracer("chatixia_langchain", __version__)
    here = trace.get_current_span().get_span_context()
    context = None if here.is_valid and not remote else _remote(parent)
    with tracer.start_as_current_span(
        name,
        context=context,
        kind=trace.SpanKind[kind],
        attributes={"gen_ai.operation.name": "invoke_agent", **attributes},
        record_exception=False,  # its text may hold what a peer wrote; the code says what happened
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except BaseException as exc:
            code = exc.code if isinstance(exc, MeshError) else type(exc).__name__
            span.set_attribute("error.type", code)
            span.set_status(trace.Status(trace.StatusCode.ERROR, code))
            raise


def _remote(parent: str) -> Any:
    """An OpenTelemetry context whose span is `parent`, of another process; an empty one when it is none."""
    from opentelemetry import trace
    from opentelemetry.context import Context

    match = _FORM.match(parent) if parent else None
    if match is None:
        return Context()
    where = trace.SpanContext(int(match[1], 16), int(match[2], 16), True, trace.TraceFlags(int(match[3], 16)))
    return trace.set_span_in_context(trace.NonRecordingSpan(where), Context())


def _header(span: Any) -> str:
    where = span.get_span_context()
    if not where.is_valid:
        return child()
    return f"00-{where.trace_id:032x}-{where.span_id:016x}-{int(where.trace_flags):02x}"


def langsmith_run() -> str:
    """The place of the LangSmith run that is active here, "" for none. Imports nothing."""
    helpers = sys.modules.get("langsmith.run_helpers")
    run = None if helpers is None else helpers.get_current_run_tree()
    return "" if run is None else str(run.to_headers().get("langsmith-trace", ""))
