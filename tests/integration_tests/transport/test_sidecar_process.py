"""The real sidecar dies, its agent dies, its parent dies: what the others see, and that the way comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest

from chatixia_langchain.config import MeshConfig, environment
from chatixia_langchain.errors import LinkDown, RegistryRefused, SidecarFailed
from chatixia_langchain.transport.process import SidecarProcess
from chatixia_langchain.transport.sidecar import SidecarTransport, sidecar_environment

from .conftest import Member, RegistryProcess, sidecar_binary
from .test_contract import frame

pytestmark = pytest.mark.sidecar


def config(registry: RegistryProcess, name: str, **more: Any) -> MeshConfig:
    settings: dict[str, Any] = {"api_key": registry.key(name), "sidecar_binary": sidecar_binary()} | more
    return MeshConfig.make(name, registry=registry.url, env={}, **settings)


async def joined(registry: RegistryProcess, *names: str) -> list[Member]:
    members = [await Member(n, SidecarTransport(config(registry, n))).start() for n in names]
    for me in members:
        await me.until(lambda me=me: me.joined() >= set(names) - {me.name})  # type: ignore[misc]
    return members


async def test_a_killed_sidecar_comes_back_and_its_peers_reach_it_again(registry: RegistryProcess) -> None:
    a, b = await joined(registry, "m280", "m281")
    await a.transport.connect("m281")
    await b.until(lambda: b.ups("m280"))
    assert isinstance(b.transport, SidecarTransport)
    os.kill(b.transport.sidecar_pid, signal.SIGKILL)
    await b.until(lambda: b.links() == [True, False, True])
    assert len(b.downs("m280")) == 1
    # It dials whom it had a channel with: they need not wait for a timeout to find out.
    await a.until(lambda: len(a.ups("m281")) == 2, 8)
    assert [d.generation for d in a.downs("m281")] == [a.ups("m281")[0].generation]
    a.transport.send("m281", frame("after its death"))
    await b.until(lambda: b.bodies("m280") == [frame("after its death")])
    for one in (a, b):
        await one.transport.aclose()


async def test_an_agent_restarts_under_a_living_sidecar_and_finds_its_channels(registry: RegistryProcess) -> None:
    other = (await joined(registry, "m282"))[0]
    binary_config = config(registry, "m283")
    process = SidecarProcess(sidecar_binary(), sidecar_environment(binary_config, environment()))

    async def exists(path: str) -> str:
        return path  # the file is there: somebody else will connect

    socket = await process.start(exists)
    first = await Member("m283", SidecarTransport(config(registry, "m283", sidecar_socket=socket))).start()
    await first.until(lambda: "m282" in first.joined())
    await first.transport.connect("m282")
    await other.until(lambda: other.ups("m283"))
    await first.transport.aclose()
    other.transport.send("m283", frame("while nobody was attached"))
    await asyncio.sleep(0.2)
    second = await Member("m283", SidecarTransport(config(registry, "m283", sidecar_socket=socket))).start()
    await second.until(lambda: second.ups("m282") and second.bodies("m282"))
    assert second.bodies("m282") == [frame("while nobody was attached")]
    assert not other.downs("m283")
    second.transport.send("m282", frame("still here"))
    await other.until(lambda: other.bodies("m283") == [frame("still here")])
    with pytest.raises(LinkDown):
        await SidecarTransport(config(registry, "m283", sidecar_socket=socket)).start(lambda e: None)
    await second.transport.aclose()
    await process.aclose()
    await other.transport.aclose()


async def test_a_clean_leave_removes_the_process_and_its_folder(registry: RegistryProcess) -> None:
    (a,) = await joined(registry, "m284")
    assert isinstance(a.transport, SidecarTransport)
    pid, folder = a.transport.sidecar_pid, Path(a.transport._process.socket).parent  # type: ignore[union-attr]
    assert folder.parent == Path(tempfile.gettempdir())
    began = asyncio.get_running_loop().time()
    await a.transport.aclose()
    assert asyncio.get_running_loop().time() - began < 5, "it was killed, not stopped"
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_wrong_key_is_told_at_start(registry: RegistryProcess) -> None:
    t = SidecarTransport(config(registry, "m285", api_key="wrong-key-0123456789"))
    with pytest.raises(RegistryRefused) as refusal:
        await t.start(lambda e: None)
    assert "wrong-key" not in str(refusal.value)
    with pytest.raises(RegistryRefused):
        await SidecarTransport(config(registry, "m286", api_key=registry.key("m285"))).start(lambda e: None)


async def test_a_setting_that_is_wrong_is_told_with_the_sidecars_own_words(registry: RegistryProcess) -> None:
    t = SidecarTransport(config(registry, "m287", extra_env={"ICE_SERVERS": "not an ice server"}))
    with pytest.raises(SidecarFailed, match="ICE_SERVERS"):
        await t.start(lambda e: None)


async def test_no_registry_is_told_and_leaves_no_process() -> None:
    t = SidecarTransport(
        MeshConfig.make(
            "m288",
            registry="http://127.0.0.1:9",
            api_key="k",
            env={},
            sidecar_binary=sidecar_binary(),
            connect_timeout_s=1.0,
        )
    )
    with pytest.raises(LinkDown, match="did not answer within 1 s"):
        await t.start(lambda e: None)
    assert t.sidecar_pid == 0


async def test_all_of_a_burst_arrives_in_order_through_full_windows(registry: RegistryProcess) -> None:
    a, b = await joined(registry, "m289", "m290")
    await a.transport.connect("m290")
    sent = [frame(f"{n} " + "x" * (n % 3000)) for n in range(5000)]
    await a.send_all("m290", sent)
    await b.until(lambda: len(b.bodies("m289")) >= len(sent), 40)
    assert b.bodies("m289") == sent
    status = await a.transport.status()
    assert status["failed_sends"] == 0, "the window of this side is never wider than the sidecar's"
    assert status["peers"]["m290"]["dtls"]
    for one in (a, b):
        await one.transport.aclose()
