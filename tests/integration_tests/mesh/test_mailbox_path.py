"""The mailbox as second path: a real registry process carries what no channel can, under the same ids."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from chatixia_langchain import LocalMesh, Mesh
from chatixia_langchain.transport.memory import MemoryHub

from .conftest import Echo, until


class Pair:
    """Two members whose channel can be forbidden, with a real registry beside."""

    def __init__(self, local: LocalMesh, stack: AsyncExitStack) -> None:
        self.hub = MemoryHub()
        self._local, self._stack = local, stack

    async def join(self, name: str) -> Mesh:
        transport = self.hub.transport(name)
        transport.name = "channels-of-a-test"  # not "memory": that one has no registry
        key = self._local.api_key(name)
        return await self._stack.enter_async_context(
            Mesh(name, registry=self._local.registry_url, api_key=key, transport=transport)
        )

    def allow(self, allowed: bool) -> None:
        (self.hub.unblock if allowed else self.hub.block)("a", "b")


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with LocalMesh(transport="mailbox") as local, AsyncExitStack() as stack:
        yield Pair(local, stack)


async def test_mailbox_after_three_seconds_and_back(pair: Pair, echo: Callable[..., Echo]) -> None:
    pair.allow(False)
    a, b = await pair.join("a"), await pair.join("b")
    served = echo(b)
    first = await a.ask("b", "no channel", timeout=30)
    assert (first.content, first.path) == ("re:no channel", "mailbox")
    assert first.latency_s >= a.config.mailbox_after_s
    second = await a.ask("b", "at once now", timeout=30)
    assert second.path == "mailbox"
    assert second.latency_s < a.config.mailbox_after_s
    receipt = await a.delivered(await a.send("b", "note"))
    assert (receipt.state, receipt.path) == ("delivered", "mailbox")
    echo(a)
    back = await b.ask("a", "the other way", timeout=30)  # b heard by mailbox: it need not wait to answer the same way
    assert (back.content, back.path) == ("re:the other way", "mailbox")
    assert back.latency_s < a.config.mailbox_after_s
    pair.allow(True)
    await a._lifetime.engine.core.transport.connect("b")  # type: ignore[union-attr]
    third = await a.ask("b", "channel", timeout=30)
    assert third.path == "channel"
    assert set(served.runs.values()) == {1}
    assert len(served.runs) == 4


async def test_a_channel_that_breaks_in_the_middle_loses_and_doubles_nothing(
    pair: Pair, echo: Callable[..., Echo]
) -> None:
    a, b = await pair.join("a"), await pair.join("b")
    served = echo(b, pause_s=0.2)
    assert (await a.ask("b", "x", timeout=30)).path == "channel"
    asks = [asyncio.create_task(a.ask("b", str(n), timeout=50)) for n in range(100)]
    await asyncio.sleep(0.05)
    pair.allow(False)
    replies = await asyncio.gather(*asks)
    assert [r.content for r in replies] == [f"re:{n}" for n in range(100)]
    assert "mailbox" in {r.path for r in replies}
    assert set(served.runs.values()) == {1}


async def test_a_message_waits_in_the_mailbox_for_an_agent_that_is_away(pair: Pair) -> None:
    a, b = await pair.join("a"), await pair.join("b")
    await (await a.send("b", "hello")).delivered()
    await b.aclose()
    receipt = await a.send("b", "while you were out", ttl=60)
    await until(lambda: a._lifetime.engine.core.peers["b"].mailbox)  # type: ignore[union-attr]
    await asyncio.sleep(0.5)
    assert receipt.state == "accepted"
    pair.allow(False)
    again = await pair.join("b")
    incoming = await asyncio.wait_for(again.incoming().__anext__(), 30)
    assert (incoming.content, incoming.path) == ("while you were out", "mailbox")
    assert (await a.delivered(receipt)).state == "delivered"
