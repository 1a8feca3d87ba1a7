"""The registry goes, comes back, forgets and refuses: what the transports that depend on it do then."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatixia_langchain.config import MeshConfig
from chatixia_langchain.errors import LinkDown, RegistryRefused
from chatixia_langchain.transport import signaling
from chatixia_langchain.transport.base import Transport
from chatixia_langchain.transport.mailbox import MailboxTransport
from chatixia_langchain.transport.registry_api import RegistryApi
from chatixia_langchain.transport.rtc import RtcTransport
from chatixia_langchain.transport.sidecar import SidecarTransport

from .conftest import Member, RegistryProcess, sidecar_binary
from .test_contract import frame


@pytest.fixture
def own_registry(tmp_path: Path) -> Iterator[RegistryProcess]:
    """A registry that this test may kill."""
    proc = RegistryProcess(tmp_path)
    yield proc
    proc.kill()


def config(registry: RegistryProcess, name: str, **more: Any) -> MeshConfig:
    return MeshConfig.make(name, registry=registry.url, api_key=registry.key(name), env={}, **more)


def dead_config(**more: Any) -> MeshConfig:
    return MeshConfig.make("m000", registry="http://127.0.0.1:9", api_key="k", env={}, **more)


@pytest.mark.parametrize("make", [RtcTransport, MailboxTransport])
async def test_no_registry_is_told_at_start(make: Any) -> None:
    t: Transport = make(dead_config())
    with pytest.raises(LinkDown, match=r"127\.0\.0\.1:9"):
        await t.start(lambda e: None)
    await t.aclose()


@pytest.mark.parametrize("make", [RtcTransport, MailboxTransport])
async def test_wrong_key_and_wrong_name_are_refusals(make: Any, registry: RegistryProcess) -> None:
    for key, why in (("wrong", "401"), (registry.key("m001"), "belongs to 'm001'")):
        t: Transport = make(MeshConfig.make("m000", registry=registry.url, api_key=key, env={}))
        with pytest.raises(RegistryRefused, match=why) as refusal:
            await t.start(lambda e: None)
        assert key not in str(refusal.value)
        await t.aclose()


async def test_a_token_that_is_refused_is_fetched_anew(own_registry: RegistryProcess) -> None:
    """A registry that restarts signs with another secret: the calls go on, nobody sees it."""
    api = RegistryApi(config(own_registry, "m000", description="d", skills=["plan"]))
    await api.register()
    own_registry.kill()
    own_registry.start()
    await api.register()
    record = await api.agent("m000")
    assert record is not None
    assert record["card"]["description"] == "d"
    assert [s["name"] for s in record["card"]["skills"]] == ["plan"]
    assert await api.agent("m001") is None
    await api.aclose()
    with pytest.raises(LinkDown):
        await api.directory()


async def test_mailbox_messages_wait_for_an_agent_that_is_away(registry: RegistryProcess) -> None:
    """Also as the second path of another transport: no presence, an API client that is shared."""
    api = RegistryApi(config(registry, "m250"))
    a = Member("m250", MailboxTransport(config(registry, "m250"), api, presence=False))
    await a.start()
    sent = [frame(f"n{n}") for n in range(20)]
    for body in sent:
        a.transport.send("m251", body)
    async with asyncio.timeout(10):
        while (await a.transport.status())["posted"] < len(sent):
            await asyncio.sleep(0.01)
    b = await Member("m251", MailboxTransport(config(registry, "m251"))).start()
    await b.until(lambda: len(b.bodies("m250")) == len(sent))
    assert b.bodies("m250") == sent
    await a.transport.aclose()
    assert await api.directory(), "a shared client is left open"
    await api.aclose()
    await b.transport.aclose()


async def test_mailbox_lives_through_a_registry_that_was_killed(own_registry: RegistryProcess) -> None:
    a = await Member("m000", MailboxTransport(config(own_registry, "m000"), poll_s=0.2)).start()
    b = await Member("m001", MailboxTransport(config(own_registry, "m001"), poll_s=0.2)).start()
    await a.until(lambda: a.ups("m001"))
    own_registry.kill()
    await a.until(lambda: a.links() == [True, False])
    assert len(a.downs("m001")) == 1, "the peer is down before the link is"
    own_registry.start()
    await a.until(lambda: a.links() == [True, False, True] and len(a.ups("m001")) == 2, 40)
    a.transport.send("m001", frame("after"))
    await b.until(lambda: b.bodies("m000") == [frame("after")], 40)
    await a.transport.aclose()
    await b.transport.aclose()


@pytest.mark.parametrize("kind", ["aiortc", "sidecar"])
async def test_a_killed_registry_closes_no_channel_and_a_new_peer_joins_after_its_return(
    kind: str, own_registry: RegistryProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signaling, "PAUSE_MAX_S", 1.0)

    def member(name: str) -> Member:
        if kind == "aiortc":
            return Member(name, RtcTransport(config(own_registry, name)))
        return Member(name, SidecarTransport(config(own_registry, name, sidecar_binary=sidecar_binary())))

    a, b = await member("m000").start(), await member("m001").start()
    await a.until(lambda: "m001" in a.joined())
    await a.transport.connect("m001")
    await b.until(lambda: b.ups("m000"))
    own_registry.kill()
    await asyncio.sleep(0.5)
    a.transport.send("m001", frame("without a registry"))
    await b.until(lambda: b.bodies("m000") == [frame("without a registry")])
    own_registry.start()
    c = await member("m002").start()
    await c.until(lambda: c.joined() >= {"m000", "m001"}, 40)
    await c.transport.connect("m000")
    c.transport.send("m000", frame("new"))
    await a.until(lambda: a.bodies("m002") == [frame("new")])
    assert not a.downs("m001")
    assert "m002" not in a.left()
    for one in (a, b, c):
        await one.transport.aclose()
