"""`FakeMesh` is a `Mesh`, and delivery makes up for what its wire does."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from chatixia_langchain import Incoming, Mesh, MeshError
from chatixia_langchain.delivery.inbox import Inbox, Verdict
from chatixia_langchain.errors import MeshClosed, MeshTimeout, PeerGone, PeerUnreachable, RemoteError
from chatixia_langchain.testing import FakeMesh, ScriptedChat

BAD: Any = {"loss": 0.3, "duplicate": 0.3, "delay": (0.0, 0.002), "seed": 7}


def shout(text: str) -> str:
    return text.upper()


class Heard:
    """Takes what comes to a member."""

    def __init__(self, mesh: Mesh) -> None:
        self.texts: list[str] = []
        self._task = asyncio.create_task(self._take(mesh))

    async def _take(self, mesh: Mesh) -> None:
        async for incoming in mesh.incoming():
            self.texts.append(incoming.content)

    async def done(self) -> list[str]:
        """After its mesh was closed: everything."""
        await asyncio.wait_for(self._task, 20)
        return self.texts


async def test_it_is_a_mesh_with_agents_of_every_kind_around_it() -> None:
    async def by_message(message: Incoming) -> str:
        return f"{message.peer}/{message.conversation}"

    async def by_text(text: str) -> str:
        return text[::-1]

    model = ScriptedChat(rule=lambda messages, tools: f"{len(messages)} read")
    peers = {"shout": shout, "back": by_text, "full": by_message, "model": model, "low": lambda text: text.lower()}
    async with FakeMesh("me", peers=peers) as mesh:
        assert isinstance(mesh, Mesh)
        assert {p.state for p in mesh.peers.values()} <= {"online", "connected"}
        said = {name: (await mesh.ask(name, "Abc", conversation="c1")).content for name in peers}
    assert said == {"shout": "ABC", "back": "cbA", "full": "me/c1", "model": "1 read", "low": "abc"}
    assert mesh.wire.lost == mesh.wire.doubled == 0


async def test_every_question_is_answered_once_over_a_bad_wire() -> None:
    ran: Counter[str] = Counter()

    def count(text: str) -> str:
        ran[text] += 1
        return f"re:{text}"

    async with FakeMesh(peers={"peer": count}, **BAD) as mesh:
        asked = await asyncio.gather(*(mesh.ask("peer", f"q{n}") for n in range(40)))
    assert [r.content for r in asked] == [f"re:q{n}" for n in range(40)]
    assert ran == Counter({f"q{n}": 1 for n in range(40)})
    assert min(mesh.wire.lost, mesh.wire.doubled, mesh.wire.breaks) > 0


async def test_a_burst_arrives_once_and_in_order_over_a_wire_that_loses_a_third() -> None:
    """The channel breaks a hundred times while 150 messages wait: none is lost, doubled or overtaken."""
    async with FakeMesh(loss=0.3, seed=1) as mesh:
        peer = await mesh.join("peer")
        heard = Heard(peer)
        receipts = [await mesh.send("peer", str(n)) for n in range(150)]
        async with asyncio.timeout(60):
            states = Counter([(await mesh.delivered(r)).state for r in receipts])
    assert states == {"delivered": 150}
    assert await heard.done() == [str(n) for n in range(150)]
    assert mesh.wire.breaks > 20


async def test_doubles_arrive_when_the_filter_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the wire does double frames, and it is delivery that takes each message once."""

    async def burst() -> list[str]:
        async with FakeMesh(duplicate=0.5, seed=3) as mesh:
            heard = Heard(await mesh.join("peer"))
            for n in range(40):
                await mesh.delivered(await mesh.send("peer", str(n)))
        return await heard.done()

    assert await burst() == [str(n) for n in range(40)]
    monkeypatch.setattr(Inbox, "accept", lambda self, id, now, *, room: Verdict.NEW)
    assert len(await burst()) > 45


async def test_a_frame_that_vanishes_silently_is_sent_again() -> None:
    async with FakeMesh(peers={"peer": shout}, loss=0.3, silent=True, seed=4) as mesh:
        asked = await asyncio.gather(*(mesh.ask("peer", f"q{n}") for n in range(8)))
    assert [r.content for r in asked] == [f"Q{n}" for n in range(8)]
    assert mesh.wire.lost > 0
    assert mesh.wire.breaks == 0


@pytest.mark.parametrize("reorder", [False, True])
async def test_delays_keep_the_order_unless_asked_for(reorder: bool) -> None:
    async with FakeMesh(delay=(0.0, 0.02), reorder=reorder, seed=5) as mesh:
        heard = Heard(await mesh.join("peer"))
        receipts = [await mesh.send("peer", f"{n:02}") for n in range(30)]
        for receipt in receipts:
            await mesh.delivered(receipt)
    texts = await heard.done()
    assert sorted(texts) == [f"{n:02}" for n in range(30)]
    assert (texts == sorted(texts)) is not reorder


async def test_a_delay_is_waited_for() -> None:
    async with FakeMesh(peers={"peer": shout}, delay=0.05) as mesh:
        await mesh.ask("peer", "first")  # with the channel
        began = asyncio.get_running_loop().time()
        await mesh.ask("peer", "x")
        assert asyncio.get_running_loop().time() - began >= 0.1, "there and back"


async def test_a_partition_before_the_question_is_told_and_healing_lets_it_through() -> None:
    async with FakeMesh(peers={"peer": shout, "other": shout}, partition=["peer"]) as mesh:
        with pytest.raises(MeshTimeout) as timed:
            await mesh.ask("peer", "x", timeout=0.3)
        assert timed.value.executed == "no"
        assert (await mesh.ask("other", "x")).content == "X"
        waiting = asyncio.create_task(mesh.ask("peer", "later", timeout=30))
        await asyncio.sleep(0.2)
        mesh.heal()
        assert (await waiting).content == "LATER"
        mesh.partition("peer")
        with pytest.raises(PeerUnreachable, match="partitioned"):
            await mesh.ask("peer", "x", timeout=30)
        assert mesh.peers["peer"].state == "online", "the registry still sees it"


async def test_a_partition_while_the_peer_works_is_peer_gone_and_healed_in_time_it_is_nothing() -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow(message: Incoming) -> str:
        began.set()
        await go_on.wait()
        return "done"

    async with FakeMesh(peers={"peer": slow}) as mesh:
        for healed in (True, False):
            began.clear()
            go_on.clear()
            asked = asyncio.create_task(mesh.ask("peer", "x", timeout=30))
            await began.wait()
            mesh.partition("me", "peer")
            go_on.set()
            if healed:
                await asyncio.sleep(0.3)
                mesh.heal()
                assert (await asked).content == "done"
            else:
                with pytest.raises(PeerGone):
                    await asked


async def test_pairs_are_cut_alone() -> None:
    async with FakeMesh(partition=[("me", "a")]) as mesh:
        a, b = await mesh.join("a", shout), await mesh.join("b", shout)
        assert (await mesh.ask("b", "x")).content == "X"
        assert (await a.ask("b", "x")).content == "X"
        assert (await b.ask("a", "x")).content == "X"
        with pytest.raises(MeshTimeout):
            await mesh.ask("a", "x", timeout=0.2)


async def test_a_member_leaves_and_its_name_is_free_again() -> None:
    async with FakeMesh(peers={"peer": shout}) as mesh:
        with pytest.raises(ValueError, match="'peer' already"):
            await mesh.join("peer")
        with pytest.raises(ValueError, match="'me' already"):
            await mesh.join("me")
        await mesh.ask("peer", "x")
        await mesh.leave("peer")
        with pytest.raises(KeyError):
            await mesh.leave("peer")
        await mesh.join("peer", lambda text: "anew")
        assert (await mesh.ask("peer", "x")).content == "anew"


async def test_what_cannot_be_served_is_refused_and_nobody_stays_behind() -> None:
    tasks = asyncio.all_tasks()
    for wrong, said in ((42, "cannot serve a int"), (lambda: "x", "takes no argument")):
        with pytest.raises(TypeError, match=said):
            await FakeMesh(peers={"fine": shout, "peer": wrong}).start()
    assert asyncio.all_tasks() == tasks


async def test_an_agent_that_raises_is_an_error_of_the_peer() -> None:
    def broken(text: str) -> str:
        raise RuntimeError("secret")

    async with FakeMesh(peers={"peer": broken}) as mesh:
        with pytest.raises(RemoteError) as told:
            await mesh.ask("peer", "x")
    assert "secret" not in str(told.value)


def test_without_async_and_from_other_threads() -> None:
    with FakeMesh(peers={"peer": shout}, **BAD) as mesh:
        assert mesh.sync.ask("peer", "x").content == "X"
        mesh.sync.join("late", lambda text: mesh.sync.ask("peer", f"nested {text}").content)
        assert mesh.sync.ask("late", "y").content == "NESTED Y"
        mesh.sync.leave("late")
        assert isinstance(mesh, FakeMesh)
    with pytest.raises(MeshClosed):
        mesh.sync.ask("peer", "x")


async def test_closing_twice_and_before_the_start_is_fine() -> None:
    await FakeMesh().aclose()
    mesh = await FakeMesh(peers={"peer": shout}, delay=(0.0, 0.05)).start()
    asked = asyncio.create_task(mesh.ask("peer", "x"))
    await asyncio.sleep(0.01)
    await mesh.aclose()
    await mesh.aclose()
    with pytest.raises(MeshError):
        await asked


def test_a_mesh_of_functions_alone_needs_no_langgraph() -> None:
    code = """
import sys
from chatixia_langchain.testing import FakeMesh
with FakeMesh(peers={"peer": str.upper}) as mesh:
    assert mesh.sync.ask("peer", "x").content == "X"
print([m for m in ("langgraph", "langchain", "openai") if m in sys.modules])
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60).strip() == "[]"


async def test_members_see_each_others_cards() -> None:
    async with FakeMesh(description="asks", skills=["ask"], peers={"plain": shout}) as mesh:
        member = await mesh.join("peer", shout, description="shouts", skills=["shout"])
        seen, back = mesh.peers["peer"], member.peers["me"]
    assert (seen.description, [s["name"] for s in seen.skills]) == ("shouts", ["shout"])
    assert (back.description, [s["name"] for s in back.skills]) == ("asks", ["ask"])
    assert mesh.peers["plain"].description == ""


async def test_a_streamed_answer_is_whole_over_a_bad_wire() -> None:
    """Chunks are never sent again: what was lost comes with the reply, and nothing comes twice."""
    text = " ".join(f"word{n}" for n in range(40))
    async with FakeMesh(peers={"peer": ScriptedChat(rule=lambda m, t: text, delay_s=0.002)}, **BAD) as mesh:
        for _ in range(5):
            async with mesh.ask_stream("peer", "x") as stream:
                said = [chunk.text async for chunk in stream]
                assert "".join(said) == text == (await stream.reply()).content
    assert mesh.wire.lost > 0
