"""One mesh from several loops and threads, and without async at all."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatixia_langchain import LocalMesh, Mesh
from chatixia_langchain.errors import MeshClosed, PeerUnreachable
from chatixia_langchain.mesh.feed import Feed, Taker
from chatixia_langchain.transport.memory import MemoryHub

from .members import Members, echo


async def in_thread(work: Callable[[], Any]) -> Any:
    """Run blocking `work` in a thread with no loop."""
    return await asyncio.get_running_loop().run_in_executor(None, work)


async def test_calls_from_another_loop_run_on_the_meshs_loop(members: Members) -> None:
    asyncio.get_running_loop().set_debug(True)  # refuses calls from the wrong thread
    a, b = await members.join("a"), await members.join("b")
    members.serve(b, echo)

    async def elsewhere() -> list[Any]:
        reply = await a.ask("b", "from another loop")
        receipt = await a.delivered(await a.send("b", "note"))
        results = await a.broadcast("all")
        status = await a.status()
        await a.wait_for_peer("b", timeout=1)
        return [reply.content, receipt.state, set(results), status["name"]]

    found = await in_thread(lambda: asyncio.run(elsewhere()))
    assert found == ["re:from another loop", "delivered", {"b"}, "a"]


async def test_incoming_and_reply_work_from_another_loop(members: Members) -> None:
    asyncio.get_running_loop().set_debug(True)  # refuses calls from the wrong thread
    a, b = await members.join("a"), await members.join("b")

    async def elsewhere() -> str:
        taker = b.incoming()
        incoming = await taker.__anext__()
        await incoming.reply("answered elsewhere")
        await taker.aclose()
        return incoming.content

    thread = asyncio.ensure_future(in_thread(lambda: asyncio.run(elsewhere())))
    assert (await asyncio.wait_for(a.ask("b", "x"), 10)).content == "answered elsewhere"
    assert await thread == "x"


async def test_cancelling_in_another_loop_cancels_on_the_meshs(members: Members) -> None:
    a, b = await members.join("a"), await members.join("b")

    async def elsewhere() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await a.ask("b", "never answered")

    await in_thread(lambda: asyncio.run(elsewhere()))
    incoming = await b.incoming().__anext__()
    await asyncio.wait_for(incoming.cancelled.wait(), 5)
    assert (await a.status())["queues"]["pending"] == 0


async def test_the_sync_door_works_from_a_thread_and_refuses_on_the_loop(members: Members) -> None:
    a, b = await members.join("a"), await members.join("b")
    members.serve(b, echo)

    def blocking() -> str:
        assert a.sync.wait_for_peer("b", timeout=5).id == "b"
        assert a.sync.delivered(a.sync.send("b", "note")).state == "delivered"
        assert set(a.sync.broadcast("all")) == {"b"}
        assert a.sync.status()["transport"] == "memory"
        return a.sync.ask("b", "blocking").content

    assert await in_thread(blocking) == "re:blocking"
    with pytest.raises(RuntimeError, match="await"):
        a.sync.ask("b", "would deadlock")
    with pytest.raises(RuntimeError, match="await"):
        a.call_sync(a.status)


async def test_sync_incoming_iterates_and_answers_until_the_mesh_closes(members: Members) -> None:
    a, b = await members.join("a"), await members.join("b")

    def serve() -> list[str]:
        seen = []
        for incoming in b.sync.incoming():
            seen.append(incoming.content)
            b.sync.reply(incoming, "re:" + incoming.content)
        return seen

    serving = asyncio.ensure_future(in_thread(serve))
    assert (await a.ask("b", "1")).content == "re:1"
    assert (await a.ask("b", "2")).content == "re:2"
    await b.aclose()
    assert await asyncio.wait_for(serving, 5) == ["1", "2"]


def test_a_mesh_without_async_has_a_thread_of_its_own_which_ends() -> None:
    hub = MemoryHub()
    before = threading.active_count()
    with Mesh("a", transport=hub.transport("a")) as a, Mesh("b", transport=hub.transport("b")) as b:

        def answer_one() -> None:
            for incoming in b.sync.incoming():
                b.sync.reply(incoming, "hi")
                return

        thread = threading.Thread(target=answer_one)
        thread.start()
        assert a.sync.ask("b", "hello").content == "hi"
        thread.join(5)
        assert not thread.is_alive()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
    with pytest.raises(MeshClosed):
        a.sync.ask("b", "too late")


def test_an_error_inside_the_block_closes_the_mesh_and_comes_through() -> None:
    hub = MemoryHub()
    with pytest.raises(ZeroDivisionError), Mesh("a", transport=hub.transport("a")):
        raise ZeroDivisionError
    assert hub.members == {}


async def test_started_in_one_task_and_closed_in_another(members: Members) -> None:
    """The owner task enters and leaves everything: no task that uses the mesh has to be the one that made it."""
    mesh = Mesh("a", transport=members.hub.transport("a"))
    await asyncio.create_task(mesh.start())
    other = Mesh("b", transport=members.hub.transport("b"))
    await asyncio.create_task(other.start())
    await asyncio.create_task(mesh.aclose())  # first in, first out
    await asyncio.gather(*(asyncio.create_task(other.aclose()) for _ in range(3)))
    assert members.hub.members == {}


async def test_closed_from_another_loop_and_start_is_once(members: Members) -> None:
    mesh = Mesh("a", transport=members.hub.transport("a"))
    await mesh.start()
    await in_thread(lambda: asyncio.run(mesh.aclose()))
    assert members.hub.members == {}
    with pytest.raises(MeshClosed, match="new one"):
        await mesh.start()
    never = Mesh("b", transport="memory")
    await never.aclose()
    with pytest.raises(MeshClosed, match="not started"):
        await never.ask("a", "x")


async def test_a_start_that_fails_leaves_nothing(members: Members) -> None:
    await members.join("a")
    double = Mesh("a", transport=members.hub.transport("a"))
    with pytest.raises(Exception, match="already in this hub"):
        await double.start()
    await double.aclose()
    assert set(members.hub.members) == {"a"}


async def test_peer_events_tell_of_joins_channels_and_leaves(members: Members) -> None:
    a = await members.join("a")
    events = a.peer_events()
    b = Mesh("b", transport=members.hub.transport("b"))
    async with b:
        members.serve(b, echo)
        await a.ask("b", "x")
        assert a.peers["b"].state == "connected"
    kinds = [(await asyncio.wait_for(events.__anext__(), 5)).kind for _ in range(4)]
    assert kinds == ["joined", "connected", "disconnected", "left"]
    assert a.peers["b"].state == "offline"
    await events.aclose()
    with pytest.raises(StopAsyncIteration):
        await events.__anext__()


async def test_wait_for_peer_waits_and_gives_up(members: Members) -> None:
    a = await members.join("a")
    with pytest.raises(PeerUnreachable, match="late"):
        await a.wait_for_peer("late", timeout=0.05)
    waiting = asyncio.create_task(a.wait_for_peer("late", timeout=10))
    await asyncio.sleep(0)
    await members.join("late")
    assert (await waiting).state in ("online", "connected")


async def test_local_mesh_in_memory_needs_nothing_else() -> None:
    async with LocalMesh(transport="memory") as local:
        a, b = await local.join("a"), await local.join("b")
        asking = asyncio.create_task(a.ask("b", "x"))
        await (await b.incoming().__anext__()).reply("y")
        assert (await asking).content == "y"
        with pytest.raises(ValueError, match="'a'"):
            await local.join("a")
        assert local.registry_url == ""
    with pytest.raises(MeshClosed):
        await a.ask("b", "x")
    with pytest.raises(MeshClosed):
        await local.join("c")


async def test_over_memory_peers_know_each_others_cards(members: Members) -> None:
    skills = [{"name": "sum", "description": "adds", "input_schema": {"type": "object"}}]
    a = await members.join("a", description="first", skills=skills)
    b = await members.join("b", description="second", skills=["plain"])
    assert (b.peers["a"].description, b.peers["a"].skills) == ("first", tuple(skills))
    await a.wait_for_peer("b")
    assert (a.peers["b"].description, a.peers["b"].skills) == ("second", ({"name": "plain"},))


async def test_a_listener_cancelled_as_a_message_comes_ends_quietly_and_loses_nothing() -> None:
    """The message wakes it in the same turn of the loop: it was an error of its own instead of the cancellation."""
    feed: Feed[str] = Feed(8)
    waiting = asyncio.create_task(feed.get(Taker(feed, lambda _work: None)))
    await asyncio.sleep(0)
    waiting.cancel()
    feed.put("hello")
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await feed.get(Taker(feed, lambda _work: None)) == "hello"


async def test_the_state_folder_is_made_for_its_user_alone(
    members: Members, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = tmp_path / "deep" / "state"
    await members.join("a", state_dir=str(made))
    assert made.stat().st_mode & 0o777 == 0o700
    assert not caplog.messages
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    await members.join("b", state_dir=str(shared))
    assert shared.stat().st_mode & 0o777 == 0o755  # it is the user's own folder
    assert str(shared) in caplog.text
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        await members.join("c", state_dir=str(tmp_path / "file"))
    assert "c" not in members.hub.members
