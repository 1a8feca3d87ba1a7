"""One trace over machines: with OpenTelemetry spans that hang together, without it ids and no import."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import pytest
from opentelemetry import trace as api
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from chatixia_langchain import Incoming, Mesh
from chatixia_langchain.errors import MeshError, RemoteError
from chatixia_langchain.mesh import trace
from chatixia_langchain.mesh.context import Turn, current_turn

from .members import Members

FORM = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """A provider that keeps what was recorded, for this test alone."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(api, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


async def turn(mesh: Mesh, incoming: Incoming, ask: str = "") -> None:
    """What an agent does: a turn with its span, in it perhaps an ask of another."""
    try:
        with trace.turn_span(incoming, mesh.name) as header:
            current_turn.set(Turn.of(incoming, trace=header))
            answer = f"{mesh.name}: {(await mesh.ask(ask, 'and you?')).content}" if ask else mesh.name
            if incoming.content == "fail":
                raise RemoteError("broke", code="refused")
    except MeshError as exc:
        await incoming.fail(exc)
    else:
        await incoming.reply(answer, meta={"usage": {"turns": 1, "models": {"m": {"input_tokens": 3}}}})


async def chain(members: Members) -> Mesh:
    """a, and b which asks c."""
    a, b, c = [await members.join(name) for name in "abc"]
    members.serve(b, lambda i: turn(b, i, ask="c"))
    members.serve(c, lambda i: turn(c, i))
    return a


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """The recorded spans."""
    return {span.name: span for span in exporter.get_finished_spans()}


def parent_of(span: ReadableSpan) -> int:
    """The id of its parent, 0 for none."""
    return span.parent.span_id if span.parent is not None else 0


async def test_one_trace_through_three_agents_with_the_right_parents(
    members: Members, spans: InMemorySpanExporter
) -> None:
    a = await chain(members)
    with api.get_tracer("app").start_as_current_span("the app"):
        assert (await a.ask("b", "x")).content == "b: c"
    found = by_name(spans)
    order = ["the app", "mesh.ask b", "mesh.turn b", "mesh.ask c", "mesh.turn c"]
    assert set(found) == set(order)
    assert len({s.context.trace_id for s in found.values()}) == 1
    for parent, span in pairwise(order):
        assert parent_of(found[span]) == found[parent].context.span_id, span
    kinds = {name: found[name].kind.name for name in order[1:]}
    assert kinds == {"mesh.ask b": "CLIENT", "mesh.turn b": "SERVER", "mesh.ask c": "CLIENT", "mesh.turn c": "SERVER"}
    attributes = found["mesh.ask c"].attributes
    assert attributes is not None
    assert (attributes["gen_ai.agent.name"], attributes["gen_ai.usage.input_tokens"]) == ("c", 3)
    assert found["mesh.turn c"].attributes["chatixia.hops"] == 1  # type: ignore[index]


async def test_a_stream_and_another_loop_are_in_the_trace_too(members: Members, spans: InMemorySpanExporter) -> None:
    a = await chain(members)

    async def elsewhere() -> None:
        with api.get_tracer("app").start_as_current_span("the app"):
            async for _ in a.ask_stream("b", "x"):
                pass

    await asyncio.get_running_loop().run_in_executor(None, lambda: asyncio.run(elsewhere()))
    found = by_name(spans)
    assert parent_of(found["mesh.ask b"]) == found["the app"].context.span_id
    assert len({s.context.trace_id for s in found.values()}) == 1


async def test_a_failure_is_noted_by_its_code_and_not_by_what_a_peer_wrote(
    members: Members, spans: InMemorySpanExporter
) -> None:
    a = await chain(members)
    with pytest.raises(RemoteError):
        await a.ask("b", "fail")
    for name in ("mesh.ask b", "mesh.turn b"):
        span = by_name(spans)[name]
        assert (span.status.status_code.name, span.attributes["error.type"]) == ("ERROR", "refused")  # type: ignore[index]
        assert "broke" not in span.to_json()


async def test_a_peer_without_opentelemetry_continues_the_trace(members: Members, spans: InMemorySpanExporter) -> None:
    """A header of a peer that records nothing is a parent all the same; one that is nonsense is none."""
    a = await members.join("a")
    message = Incoming("z", "x", "c", "m", True, trace="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    with trace.turn_span(message, a.name) as header:
        assert header.startswith("00-4bf92f3577b34da6a3ce929d0e0e4736-")
    with trace.turn_span(Incoming("z", "x", "c", "m", True, trace="00-zz"), a.name):
        pass
    first, second = spans.get_finished_spans()
    assert parent_of(first) == 0x00F067AA0BA902B7
    assert second.parent is None


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{'a' * 32}-{'0' * 16}-01",
        f"ff-{'a' * 32}-{'b' * 16}-01",
        f"00-{'A' * 32}-{'b' * 16}-01",
        f"00-{'a' * 32}-{'b' * 16}-01\n",
    ],
)
def test_a_header_that_is_none_begins_a_new_trace(parent: str) -> None:
    made = trace.child(parent)
    assert FORM.fullmatch(made)
    assert made[3:35] not in parent
    again = trace.child(made)
    assert again[3:35] == made[3:35]
    assert again[36:52] != made[36:52]


def test_without_a_provider_nothing_is_recorded_and_nothing_imported() -> None:
    code = """
import asyncio, sys
from chatixia_langchain import LocalMesh
from chatixia_langchain.mesh import trace
async def main():
    async with LocalMesh(transport="memory") as local:
        a, b = await local.join("a"), await local.join("b")
        asking = asyncio.create_task(a.ask("b", "x"))
        incoming = await anext(b.incoming())
        with trace.turn_span(incoming, "b") as header:
            await incoming.reply("y")
        await asking
        print(trace.recording(), len(incoming.trace), header[:35] == incoming.trace[:35], header == incoming.trace)
asyncio.run(main())
print([m for m in ("opentelemetry", "langsmith") if m in sys.modules])
import opentelemetry.trace
print(trace.recording())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split("\n")[:3] == ["False 55 True False", "[]", "False"]


async def test_the_place_of_a_langsmith_run_travels_and_its_baggage_does_not(members: Members) -> None:
    from langsmith.run_helpers import tracing_context
    from langsmith.run_trees import RunTree

    a, b = await members.join("a"), await members.join("b")
    run = RunTree(name="the app", run_type="chain", project_name="secret-project")
    with tracing_context(parent=run, enabled=True):
        asking = asyncio.create_task(a.ask("b", "x", meta={"mine": 1}))
    incoming = await anext(b.incoming())
    await incoming.reply("y")
    await asking
    assert incoming.meta == {"mine": 1, "langsmith": run.dotted_order}
