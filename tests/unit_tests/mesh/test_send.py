"""Send, broadcast, and the inbox: delivery, order, bounds."""

from __future__ import annotations

import asyncio

import pytest

from chatixia_langchain import Mesh, Receipt
from chatixia_langchain.errors import Busy, MeshError, PeerUnreachable

from .members import Members, echo


async def test_a_receipt_becomes_delivered(members: Members) -> None:
    a, b = await members.join("a"), await members.join("b")
    receipt = await a.send("b", "note", conversation="c")
    assert (await asyncio.wait_for(receipt.delivered(), 5)).state == "delivered"
    assert receipt.path == "memory"
    incoming = await b.incoming().__anext__()
    assert (incoming.content, incoming.conversation, incoming.expects_reply) == ("note", "c", False)
    await incoming.reply("nobody waits for this")
    assert (await b.status())["queues"]["outbox"] == {}


async def test_messages_arrive_in_order_past_the_window_and_a_full_inbox(members: Members) -> None:
    """The inbox holds 8, the window 256: most are refused at first, and none is lost, doubled or out of order."""
    a, b = await members.join("a"), await members.join("b", max_inbox=8)
    got: list[str] = []

    async def slow() -> None:
        async for incoming in b.incoming():
            got.append(incoming.content)
            if len(got) % 8 == 0:
                await asyncio.sleep(0.001)
            if len(got) == 400:
                return

    reading = asyncio.create_task(slow())
    receipts = [await a.send("b", str(n)) for n in range(400)]
    await asyncio.wait_for(reading, 40)
    assert got == [str(n) for n in range(400)]
    await asyncio.gather(*(r.delivered() for r in receipts))
    assert {r.state for r in receipts} == {"delivered"}
    assert (await b.status())["counters"]["refused"] > 0


async def test_a_full_inbox_acknowledges_nothing_and_loses_nothing(members: Members) -> None:
    a, b = await members.join("a"), await members.join("b", max_inbox=2)
    receipts = [await a.send("b", str(n)) for n in range(5)]
    await asyncio.sleep(0.3)
    assert [r.state for r in receipts] == ["delivered", "delivered", "accepted", "accepted", "accepted"]
    taker = b.incoming()
    assert [(await asyncio.wait_for(taker.__anext__(), 5)).content for _ in range(5)] == list("01234")


async def test_send_waits_at_the_bound_and_send_nowait_raises(members: Members) -> None:
    a, b = await members.join("a", max_inflight_per_peer=4), await members.join("b", max_inbox=1)
    await b.wait_for_peer("a")
    for n in range(5):
        await asyncio.wait_for(a.send("b", str(n)), 2)  # one is in b's inbox, four wait
        await asyncio.sleep(0.02)
    with pytest.raises(Busy):
        a.send_nowait("b", "no room")
    waiting = asyncio.create_task(a.send("b", "5"))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    taker = b.incoming()
    assert [(await asyncio.wait_for(taker.__anext__(), 5)).content for _ in range(6)] == list("012345")
    await waiting
    for n in range(5):
        await asyncio.wait_for(a.send("b", f"never taken {n}"), 2)
        await asyncio.sleep(0.02)
    with pytest.raises(Busy):
        await a.send("b", "no room in time", ttl=0.2)


async def test_ttl_ends_in_undeliverable_with_a_reason(members: Members) -> None:
    a, _b = await members.join("a"), await members.join("b", max_inbox=1)
    first, second = await a.send("b", "taken"), await a.send("b", "refused", ttl=0.3)
    await asyncio.wait_for(second.delivered(), 5)
    assert (first.state, second.state) == ("delivered", "undeliverable")
    assert "time to live" in second.reason


async def test_messages_for_a_broken_channel_go_again_when_it_is_back(members: Members) -> None:
    a, b = await members.join("a"), await members.join("b")
    members.serve(b, echo)
    await a.ask("b", "connect")
    members.hub.block("a", "b")
    await asyncio.sleep(0)
    receipts = [await a.send("b", str(n)) for n in range(10)]
    asking = asyncio.create_task(a.ask("b", "in between"))
    await asyncio.sleep(0.3)
    assert {r.state for r in receipts} == {"accepted"}
    members.hub.unblock("a", "b")
    assert (await asyncio.wait_for(asking, 10)).content == "re:in between"
    await asyncio.gather(*(r.delivered() for r in receipts))
    assert {r.state for r in receipts} == {"delivered"}


async def test_nothing_is_lost_or_doubled_while_the_channel_keeps_breaking(members: Members) -> None:
    a, b = await members.join("a"), await members.join("b")
    got: list[str] = []

    async def keep(incoming: object) -> None:
        got.append(incoming.content)  # type: ignore[attr-defined]

    members.serve(b, keep)

    async def saw() -> None:
        while len(got) < 3000:
            members.hub.cut("a", "b")
            await asyncio.sleep(0.02)

    cutting = asyncio.create_task(saw())
    receipts = [await a.send("b", str(n)) for n in range(3000)]
    await asyncio.wait_for(asyncio.gather(*(r.delivered() for r in receipts)), 40)
    cutting.cancel()
    assert got == [str(n) for n in range(3000)]


async def test_lost_frames_are_sent_again(members: Members) -> None:
    """A transport may lose what it took, as a killed sidecar does: the resend timer repairs it."""
    a, b = await members.join("a"), await members.join("b")
    members.serve(b, echo)
    await a.ask("b", "connect")
    count = 0

    def lose(_from: str, _to: str, _body: bytes) -> bool:
        nonlocal count
        count += 1
        return count % 3 == 0 and count < 60

    members.hub.lose = lose
    replies = await asyncio.wait_for(asyncio.gather(*(a.ask("b", str(n)) for n in range(30))), 40)
    assert [r.content for r in replies] == [f"re:{n}" for n in range(30)]


async def test_broadcast_reaches_everyone_and_a_failure_is_data(members: Members) -> None:
    a, b, c = [await members.join(n) for n in "abc"]
    results = await a.broadcast("all hands", conversation="m")
    assert set(results) == {"b", "c"}
    for mesh in (b, c):
        incoming = await asyncio.wait_for(mesh.incoming().__anext__(), 5)
        assert (incoming.content, incoming.broadcast, incoming.expects_reply) == ("all hands", True, False)
        assert incoming.conversation == "m"
    mixed = await asyncio.wait_for(a.broadcast("x", to=["b", "ghost", "not a name!"]), 15)
    assert isinstance(mixed["b"], Receipt)
    assert isinstance(mixed["ghost"], PeerUnreachable)
    assert isinstance(mixed["not a name!"], MeshError)
    too_big = await a.broadcast("x" * 300_000)
    assert {getattr(e, "code", "") for e in too_big.values()} == {"message_too_big"}


async def test_one_name_is_no_list_of_names(members: Members) -> None:
    """Taken for its letters, it would reach the agents `b` and `c`."""
    a, b, _ = [await members.join(n) for n in "abc"]
    with pytest.raises(TypeError, match="'bc'"):
        await a.broadcast("x", to="bc")
    with pytest.raises(TypeError, match="'bc'"):
        await a.ask_many("x", to="bc")
    assert b.incoming().nowait() is None


async def test_a_message_sent_just_before_closing_is_still_delivered(members: Members) -> None:
    b = await members.join("b")
    async with Mesh("brief", transport=members.hub.transport("brief")) as brief:
        await brief.wait_for_peer("b")
        receipt = await brief.send("b", "last words")  # the channel is only being made
    assert receipt.state == "delivered"
    assert (await b.incoming().__anext__()).content == "last words"


async def test_what_cannot_go_any_more_at_closing_is_undeliverable(members: Members) -> None:
    async with Mesh("brief", transport=members.hub.transport("brief")) as brief:
        receipt = await brief.send("nobody", "x")
    assert receipt.state == "undeliverable"
    assert "closed" in receipt.reason


async def test_one_slow_peer_does_not_hold_up_a_broadcast(members: Members) -> None:
    a = await members.join("a", max_inflight_per_peer=2)
    await members.join("slow", max_inbox=1)
    quick = await members.join("quick")
    await a.wait_for_peer("quick")
    for n in range(3):
        await a.send("slow", str(n))
        await asyncio.sleep(0.02)
    results = await asyncio.wait_for(a.broadcast("all"), 10)
    assert isinstance(results["slow"], Busy)
    assert isinstance(results["quick"], Receipt)
    assert (await quick.incoming().__anext__()).content == "all"


async def test_several_takers_share_one_queue_and_closing_ends_them(members: Members) -> None:
    a, b = await members.join("a"), await members.join("b")
    got: list[str] = []

    async def take() -> None:
        got.extend([incoming.content async for incoming in b.incoming()])

    takers = [asyncio.create_task(take()) for _ in range(3)]
    receipts = [await a.send("b", str(n)) for n in range(50)]
    await asyncio.gather(*(r.delivered() for r in receipts))
    await b.aclose()
    await asyncio.wait_for(asyncio.gather(*takers), 5)
    assert sorted(got, key=int) == [str(n) for n in range(50)]


async def test_a_cancelled_taker_loses_no_message(members: Members) -> None:
    a, b = await members.join("a"), await members.join("b")
    taker = b.incoming()
    got = 0
    for n in range(50):
        waiting = asyncio.ensure_future(taker.__anext__())
        await asyncio.sleep(0)
        receipt = await a.send("b", str(n))
        for _ in range(n % 4):
            await asyncio.sleep(0)
        waiting.cancel()
        try:
            await waiting
            got += 1
        except asyncio.CancelledError:
            pass
        await receipt.delivered()
    left = (await b.status())["queues"]["inbox"]
    assert got + left == 50
    await taker.aclose()
    with pytest.raises(StopAsyncIteration):
        await taker.__anext__()
