"""Sidecars, registry and agents that are killed: nothing is lost, nothing is answered twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from chatixia_langchain import LocalMesh, Mesh, Receipt
from chatixia_langchain.errors import LinkDown, PeerGone
from chatixia_langchain.transport.process import SidecarProcess
from chatixia_langchain.transport.sidecar import sidecar_environment

from .conftest import Echo, sidecar_binary, sidecar_of, until

pytestmark = pytest.mark.sidecar


@pytest.mark.parametrize("whose", ["asker", "answerer"])
async def test_kill_9_of_a_sidecar_in_the_middle_of_1000_asks(
    local: LocalMesh, echo: Callable[..., Echo], whose: str
) -> None:
    """None is lost, and none is run or answered twice."""
    a, b = await local.join("a"), await local.join("b")
    served = echo(b)
    await a.ask("b", "connect", timeout=30)
    asks = [asyncio.create_task(a.ask("b", str(n), timeout=55)) for n in range(1000)]
    await until(lambda: sum(t.done() for t in asks) >= 200)
    assert not all(t.done() for t in asks)
    victim = sidecar_of(a if whose == "asker" else b)
    old = victim.sidecar_pid
    os.kill(old, signal.SIGKILL)
    replies = await asyncio.gather(*asks)
    assert [r.content for r in replies] == [f"re:{n}" for n in range(1000)]
    assert {r.path for r in replies} <= {"channel", "mailbox"}
    assert len(served.runs) == 1001
    assert set(served.runs.values()) == {1}
    assert victim.sidecar_pid != old


async def test_a_slow_agent_gets_everything_in_order_and_others_do_not_wait(
    local: LocalMesh, echo: Callable[..., Echo]
) -> None:
    """It reads nothing for 3 s while 5,000 messages are sent to it; meanwhile another peer answers."""
    a, slow, other = await local.join("a"), await local.join("slow"), await local.join("other")
    echo(other)
    await asyncio.gather(a.wait_for_peer("slow"), a.wait_for_peer("other"))
    sent: list[Receipt] = []

    async def flood() -> None:
        for n in range(5000):
            sent.append(await a.send("slow", str(n), ttl=50))  # noqa: PERF401

    flooding = asyncio.create_task(flood())
    for n in range(30):
        assert (await a.ask("other", str(n), timeout=10)).content == f"re:{n}"
        await asyncio.sleep(0.1)
    assert not flooding.done()  # the inbox and the window are full: the sender waits
    assert len(sent) <= 1024 + 256 + 1
    taker = slow.incoming()
    got = [(await asyncio.wait_for(taker.__anext__(), 20)).content for _ in range(5000)]
    assert got == [str(n) for n in range(5000)]
    await flooding
    await asyncio.gather(*(a.delivered(r) for r in sent))
    assert {r.state for r in sent} == {"delivered"}


async def test_kill_9_of_the_registry_leaves_open_links_alone_and_a_new_peer_joins_after_its_return(
    local: LocalMesh, echo: Callable[..., Echo]
) -> None:
    a, b = await local.join("a"), await local.join("b")
    echo(b)
    await a.ask("b", "connect", timeout=30)
    generation = (await a.status())["links"]["b"]["generation"]
    os.kill(local.registry.pid, signal.SIGKILL)
    for n in range(50):
        assert (await a.ask("b", str(n), timeout=10)).path == "channel"
        await asyncio.sleep(0.02)
    await local.registry.stop()
    await local.registry.start()
    c = await local.join("c")
    echo(c)
    await c.wait_for_peer("b", timeout=40)  # its sidecar comes back when its pause is over
    assert (await c.ask("b", "new", timeout=40)).content == "re:new"
    await a.wait_for_peer("c", timeout=50)
    assert (await a.ask("c", "old to new", timeout=30)).content == "re:old to new"
    assert (await a.status())["links"]["b"]["generation"] == generation


async def test_the_agent_is_restarted_under_a_living_sidecar(local: LocalMesh, echo: Callable[..., Echo]) -> None:
    """The channel stays; what the old agent had acknowledged fails, what it had not runs in the new one."""
    a = await local.join("a")
    first = Mesh("b", registry=local.registry_url, api_key=local.api_key("b"), transport="sidecar")
    process = SidecarProcess(sidecar_binary(), sidecar_environment(first.config, os.environ))
    await process.start(_accepts)
    try:
        settings = {"registry": local.registry_url, "api_key": local.api_key("b"), "sidecar_socket": process.socket}
        one = await _start_again(settings)
        served = echo(one)
        assert (await a.ask("b", "to the first", timeout=30)).content == "re:to the first"
        await served.stop()
        stuck = asyncio.create_task(a.ask("b", "had by the first", timeout=50))
        await until(lambda: len(_inbox(one)) == 1)
        await asyncio.sleep(0.1)  # its acknowledgement is on the way
        await one.aclose()
        pid = process.pid
        sent = await a.send("b", "for whoever is there", ttl=50)
        two = await _start_again(settings)
        again = echo(two)
        with pytest.raises(PeerGone):
            await stuck
        assert (await a.ask("b", "to the second", timeout=30)).content == "re:to the second"
        assert (await a.delivered(sent)).state == "delivered"
        assert again.runs[sent.message_id] == 1
        assert process.pid == pid
        await two.aclose()
    finally:
        await process.aclose()


async def _start_again(settings: dict[str, str]) -> Mesh:
    """As whoever restarts agents does: the sidecar may not have noticed yet that its client is gone."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await Mesh("b", **settings).start()  # type: ignore[arg-type]
            except LinkDown:
                await asyncio.sleep(0.1)


async def _accepts(socket: str) -> None:
    _, writer = await asyncio.open_unix_connection(socket)
    writer.close()
    await writer.wait_closed()


def _inbox(mesh: Mesh) -> object:
    engine = mesh._lifetime.engine
    assert engine is not None
    return engine.core.inbox.items


async def test_mailbox_after_three_seconds_without_a_channel_and_back(
    local: LocalMesh, echo: Callable[..., Echo], tmp_path: object
) -> None:
    """One end offers no address that the other can reach; later it does."""
    b = await local.join("b", extra_env={"ICE_BIND": "127.0.0.1"})
    a = await local.join("a", extra_env={"ICE_BIND": "192.0.2.1"}, connect_timeout_s=4.0)
    served = echo(b)
    by_mailbox = await a.ask("b", "no way", timeout=40)
    assert (by_mailbox.content, by_mailbox.path) == ("re:no way", "mailbox")
    assert (await a.status())["counters"]["mailbox_switches"] >= 1
    sent = await a.delivered(await a.send("b", "note", ttl=30))
    assert (sent.state, sent.path) == ("delivered", "mailbox")
    await a.aclose()
    a = await local.join("a")
    direct = await a.ask("b", "a way", timeout=40)
    assert (direct.content, direct.path) == ("re:a way", "channel")
    assert set(served.runs.values()) == {1}
