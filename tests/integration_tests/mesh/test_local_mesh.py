"""LocalMesh with real processes: it comes up without set-up, and nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chatixia_langchain import LocalMesh, Mesh
from chatixia_langchain.errors import PeerUnreachable, RegistryRefused

from .conftest import Echo, sidecar_of, until


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_ask_send_and_cards_over_webrtc(webrtc: LocalMesh, echo: Callable[..., Echo]) -> None:
    a = await webrtc.join("a")
    b = await webrtc.join("b", description="knows things", skills=["find"])
    echo(b)
    reply = await a.ask("b", "hello", timeout=30)
    assert (reply.content, reply.path) == ("re:hello", "channel")
    receipt = await a.delivered(await a.send("b", "note"))
    assert (receipt.state, receipt.path) == ("delivered", "channel")
    await until(lambda: a.peers["b"].description == "knows things")
    assert [s["name"] for s in a.peers["b"].skills] == ["find"]
    link = (await a.status())["links"]["b"]
    assert link["state"] == "open"
    assert link["path"]
    big = "y" * 60_000
    assert (await a.ask("b", big, timeout=30)).content == "re:" + big


async def test_mailbox_alone_works(echo: Callable[..., Echo]) -> None:
    async with LocalMesh(transport="mailbox") as local:
        a, b = await local.join("a"), await local.join("b")
        echo(b)
        reply = await a.ask("b", "hello", timeout=30)
        assert (reply.content, reply.path) == ("re:hello", "mailbox")


async def test_a_peer_that_never_existed_is_unreachable_within_seconds(webrtc: LocalMesh) -> None:
    a = await webrtc.join("a")
    with pytest.raises(PeerUnreachable) as caught:
        await asyncio.wait_for(a.ask("nobody", "x"), 15)
    assert caught.value.executed == "no"


async def test_a_wrong_key_is_refused_at_the_start_in_words() -> None:
    async with LocalMesh(transport="mailbox") as local:
        with pytest.raises(RegistryRefused):
            await Mesh("x", registry=local.registry_url, api_key="ck_wrong_wrong_wrong", transport="aiortc").start()
        with pytest.raises(RegistryRefused, match="belongs to 'a'"):
            await Mesh("x", registry=local.registry_url, api_key=local.api_key("a"), transport="aiortc").start()


@pytest.mark.sidecar
async def test_20_agents_are_all_connected_at_once(local: LocalMesh, echo: Callable[..., Echo]) -> None:
    names = [f"n{n:02}" for n in range(20)]
    meshes = await asyncio.gather(*(local.join(name) for name in names))
    for mesh in meshes:
        echo(mesh)
    await asyncio.gather(*(m.wait_for_peer(n, timeout=40) for m in meshes for n in names if n != m.name))
    asks = [m.ask(n, f"{m.name}>{n}", timeout=50) for m in meshes for n in names if n != m.name]
    replies = await asyncio.gather(*asks)
    assert len(replies) == 380
    assert all(r.content.endswith(f">{r.peer}") for r in replies)
    for mesh in meshes:
        assert sum(p.state == "connected" for p in mesh.peers.values()) == 19


@pytest.mark.sidecar
async def test_processes_end_with_the_block_even_on_an_error(local: LocalMesh) -> None:
    pids: list[int] = []
    with pytest.raises(ZeroDivisionError):
        await _fail_inside(LocalMesh(transport="sidecar", **local._settings), pids)
    assert len(pids) == 2
    assert not any(alive(p) for p in pids)


async def _fail_inside(inner: LocalMesh, pids: list[int]) -> None:
    async with inner:
        a = await inner.join("a")
        pids += [inner.registry.pid, sidecar_of(a).sidecar_pid]
        assert all(alive(p) for p in pids)
        raise ZeroDivisionError


PROGRAM = """
import asyncio, sys
from chatixia_langchain import LocalMesh
async def main():
    async with LocalMesh(transport="mailbox") as local:
        await local.join("a")
        print(local.registry.pid, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
async def test_the_registry_ends_with_the_program_however_that_ends(how: signal.Signals, tmp_path: Path) -> None:
    env = os.environ | {"TMPDIR": str(tmp_path)}  # what a killed program leaves behind goes with the test
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as program:
        assert program.stdout is not None
        registry = int(await asyncio.to_thread(program.stdout.readline))
        assert alive(registry)
        program.send_signal(how)
        await asyncio.to_thread(program.wait, 20)
    await until(lambda: not alive(registry), 15)
