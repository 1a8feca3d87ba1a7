"""The spans of turns and of the asks inside them make one trace, over agents that know nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from chatixia_langchain import Incoming, LocalMesh, MeshError

from .test_mesh_agent import local as local
from .test_mesh_agent import served

trace = pytest.importorskip("opentelemetry.trace")
sdk = pytest.importorskip("opentelemetry.sdk.trace")
export = pytest.importorskip("opentelemetry.sdk.trace.export")
in_memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[in_memory.InMemorySpanExporter]:
    """What is exported while the test runs; the provider of the process is put back afterwards."""
    exporter = in_memory.InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


async def test_three_agents_are_one_trace(local: LocalMesh, spans: in_memory.InMemorySpanExporter) -> None:
    a, b, c = [await local.join(n) for n in "abc"]

    async def middle(message: Incoming) -> str:
        return (await b.ask("c", message.content)).content

    async def last(message: Incoming) -> str:
        return "42"

    async with served(b, middle), served(c, last):
        assert (await a.ask("b", "?")).content == "42"
    by_name = {s.name: s for s in spans.get_finished_spans()}
    chain = [by_name[n] for n in ("mesh.ask b", "mesh.turn b", "mesh.ask c", "mesh.turn c")]
    assert len({s.context.trace_id for s in chain}) == 1
    for parent, child in pairwise(chain):
        assert child.parent is not None
        assert child.parent.span_id == parent.context.span_id, f"{child.name} is below {parent.name}"


async def test_without_a_provider_the_trace_still_goes_through(local: LocalMesh) -> None:
    a, b, c = [await local.join(n) for n in "abc"]
    came: list[str] = []

    async def middle(message: Incoming) -> str:
        came.append(message.trace)
        return (await b.ask("c", message.content)).content

    async def last(message: Incoming) -> str:
        came.append(message.trace)
        return "42"

    async with served(b, middle), served(c, last):
        await a.ask("b", "?")
    (_, first, span, _), (_, second, other, _) = (t.split("-") for t in came)
    assert first == second
    assert span != other


async def test_a_failed_turn_is_a_failed_span(local: LocalMesh, spans: in_memory.InMemorySpanExporter) -> None:
    a, b = await local.join("a"), await local.join("b")

    async def breaks(message: Incoming) -> str:
        raise RuntimeError(f"about {message.content}")

    async with served(b, breaks):
        with pytest.raises(MeshError):
            await a.ask("b", "secret")
    (turn,) = [s for s in spans.get_finished_spans() if s.name == "mesh.turn b"]
    assert (turn.status.status_code, turn.attributes["error.type"]) == (trace.StatusCode.ERROR, "RuntimeError")
    assert "secret" not in turn.to_json()
