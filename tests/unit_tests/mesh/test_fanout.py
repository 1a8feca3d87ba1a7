"""One question to many: failures are isolated, a quorum ends it, the rest is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from chatixia_langchain import Mesh
from chatixia_langchain.errors import Cancelled, MeshTimeout, PeerUnreachable

from .members import Members, echo
from .test_turns import Keeper


async def three(members: Members) -> Mesh:
    """a, and b and c which answer, and d which does not; b and d can search."""
    a = await members.join("a")
    members.serve(await members.join("b", skills=["search"]), echo)
    members.serve(await members.join("c"), echo)
    await members.join("d", skills=["search", "sum"])
    return a


async def test_ask_many_gathers_and_isolates_failures(members: Members) -> None:
    a = await three(members)
    results = await a.ask_many("x", timeout=0.3)
    assert {p: getattr(r, "content", type(r)) for p, r in results.items()} == {
        "b": "re:x",
        "c": "re:x",
        "d": MeshTimeout,
    }
    results = await a.ask_many("x", to=["b", "nobody", "not a name", "a", "b"], timeout=0.3)
    assert list(results) == ["b", "nobody", "not a name", "a"]
    assert results["b"].content == "re:x"  # type: ignore[union-attr]
    assert isinstance(results["nobody"], MeshTimeout | PeerUnreachable)
    assert results["not a name"].code == "invalid_line"  # type: ignore[union-attr]
    assert isinstance(results["a"], PeerUnreachable)


async def test_a_quorum_ends_it_and_cancels_the_rest_at_the_peers(members: Members) -> None:
    a = await three(members)
    d = await members.join("e")
    asking = asyncio.create_task(a.ask_many("x", to=["b", "c", "e"], quorum=2, timeout=30))
    incoming = await d.incoming().__anext__()
    results = await asyncio.wait_for(asking, 10)
    assert isinstance(results["e"], Cancelled)
    await asyncio.wait_for(incoming.cancelled.wait(), 10)
    assert (await a.status())["queues"]["pending"] == 0


async def test_peers_are_chosen_by_the_skill_of_their_card_at_most_k(members: Members) -> None:
    a = await three(members)
    assert set(await a.ask_many("x", skill="search", timeout=0.2)) == {"b", "d"}
    assert set(await a.ask_many("x", skill="search", to=["c", "d", "nobody"], timeout=0.2)) == {"d"}
    await a.ask("c", "opens a channel")
    assert list(await a.ask_many("x", k=1, timeout=0.2)) == ["b"]  # those with a channel first, then by name
    assert await a.ask_many("x", skill="none has it") == {}
    for wrong in ({"k": 0}, {"quorum": 0}):
        with pytest.raises(ValueError, match="1 or more"):
            await a.ask_many("x", **wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="several"):
        await a.ask_many("x", to="b")
    with pytest.raises(TypeError, match="int"):
        await a.ask_many(5)  # type: ignore[arg-type]


async def test_a_repeated_ask_many_is_the_same_request_at_each_peer(members: Members) -> None:
    a, keeper = await members.join("a"), Keeper()
    for name in ("b", "c"):
        members.serve(await members.join(name), keeper)
    for _ in range(2):
        results = await a.ask_many("x", message_id="call-1", conversation="c1")
    assert len(keeper.got) == 2
    assert len({m.message_id for m in keeper.got}) == 2
    assert {r.conversation for r in results.values()} == {"c1"}  # type: ignore[union-attr]


async def test_cancelling_ask_many_cancels_all(members: Members) -> None:
    a, b, c = await members.join("a"), await members.join("b"), await members.join("c")
    asking = asyncio.create_task(a.ask_many("x"))
    waiting = [await m.incoming().__anext__() for m in (b, c)]
    asking.cancel()
    await asyncio.wait_for(asyncio.gather(*(m.cancelled.wait() for m in waiting)), 10)
