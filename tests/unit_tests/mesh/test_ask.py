"""Ask: replies, errors, deadlines, cancellation, closing."""

from __future__ import annotations

import asyncio
import time

import pytest

from chatixia_langchain import Incoming
from chatixia_langchain.errors import (
    MeshClosed,
    MeshError,
    MeshTimeout,
    MessageTooBig,
    PeerGone,
    PeerUnreachable,
    RemoteError,
)

from .members import Members, echo


async def test_reply_has_content_peer_conversation_id_and_path(members: Members) -> None:
    a, b = await members.join("a"), await members.join("b")
    members.serve(b, echo)
    reply = await a.ask("b", "hello", conversation="c1", message_id="m1")
    assert (reply.content, reply.peer, reply.conversation, reply.message_id) == ("re:hello", "b", "c1", "m1")
    assert reply.path == "memory"
    assert reply.latency_s > 0


async def test_the_handler_sees_everything_that_was_said(members: Members) -> None:
    a, b = await members.join("a"), await members.join("b")
    members.serve(b, echo)
    seen: list[Incoming] = []

    async def keep(incoming: Incoming) -> None:
        seen.append(incoming)
        await incoming.reply("ok", meta={"n": 1})

    c = await members.join("c")
    members.serve(c, keep)
    reply = await a.ask(
        "c", "", skill="plan", arguments={"days": 3}, hops=2, chain=["x", "y"], meta={"k": "v"}, timeout=7.0
    )
    (got,) = seen
    assert (got.peer, got.skill, got.arguments, got.hops, got.chain) == ("a", "plan", {"days": 3}, 2, ("x", "y"))
    assert got.meta == {"k": "v"}
    assert got.ttl_s == 7.0
    assert got.expects_reply
    assert got.attempt == 1
    assert reply.meta == {"n": 1}


async def test_a_thousand_asks_at_once_are_each_answered(members: Members) -> None:
    a, b = await members.join("a"), await members.join("b")
    members.serve(b, echo)
    replies = await asyncio.gather(*(a.ask("b", str(n)) for n in range(1000)))
    assert [r.content for r in replies] == [f"re:{n}" for n in range(1000)]
    status = await a.status()
    assert status["queues"] == {"inbox": 0, "pending": 0, "outbox": {}}


async def test_nested_asks_do_not_deadlock(members: Members) -> None:
    """H-19: a handler that asked back was awaited inside the reader, and its answer was never read."""
    a, b = await members.join("a"), await members.join("b")

    async def ask_back(incoming: Incoming) -> None:
        depth = int(incoming.content)
        mesh = b if incoming.peer == "a" else a
        inner = "end" if depth == 0 else (await mesh.ask(incoming.peer, str(depth - 1))).content
        await incoming.reply(f"{depth}<{inner}>")

    members.serve(a, ask_back)
    members.serve(b, ask_back)
    assert (await a.ask("b", "3", timeout=5)).content == "3<2<1<0<end>>>>"


async def test_the_peers_error_arrives_with_code_retryable_and_executed(members: Members) -> None:
    a, b = await members.join("a"), await members.join("b")

    async def refuse(incoming: Incoming) -> None:
        await incoming.fail(MeshError("not today", code="refused", retryable=True, executed="no"))
        await incoming.reply("and a second answer is nothing")

    members.serve(b, refuse)
    with pytest.raises(RemoteError, match="not today") as caught:
        await a.ask("b", "x")
    assert (caught.value.code, caught.value.retryable, caught.value.executed) == ("refused", True, "no")
    assert (await a.status())["counters"]["late_replies"] == 0


async def test_deadline_says_whether_it_was_sent_and_the_peer_is_told(members: Members) -> None:
    a, b = await members.join("a"), await members.join("b")
    with pytest.raises(MeshTimeout) as caught:
        await a.ask("b", "x", timeout=0.1)
    assert caught.value.executed == "unknown"
    incoming = await b.incoming().__anext__()
    await asyncio.wait_for(incoming.cancelled.wait(), 2)
    await incoming.reply("too late")
    assert (await a.status())["queues"]["pending"] == 0


async def test_cancelling_an_ask_tells_the_peer_and_leaves_nothing(members: Members) -> None:
    a, b = await members.join("a"), await members.join("b")
    asking = asyncio.create_task(a.ask("b", "x"))
    incoming = await b.incoming().__anext__()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.wait_for(incoming.cancelled.wait(), 2)
    assert (await a.status())["queues"] == {"inbox": 0, "pending": 0, "outbox": {}}


async def test_a_peer_that_never_existed_is_unreachable_within_seconds(members: Members) -> None:
    a = await members.join("a")
    started = time.monotonic()
    with pytest.raises(PeerUnreachable, match="nobody") as caught:
        await a.ask("nobody", "x")
    assert caught.value.executed == "no"
    assert time.monotonic() - started < 10


async def test_a_peer_that_left_for_good_ends_the_wait(members: Members) -> None:
    a, b = await members.join("a"), await members.join("b")
    asking = asyncio.create_task(a.ask("b", "x"))
    await b.incoming().__anext__()
    members.hub.leave(members.hub.members["b"])  # as a killed process: no goodbye
    with pytest.raises(PeerGone) as caught:
        await asyncio.wait_for(asking, 15)
    assert caught.value.executed == "unknown"
    await b.aclose()


async def test_closing_fails_every_wait_at_once(members: Members) -> None:
    a, b = await members.join("a"), await members.join("b")
    asking = [asyncio.create_task(a.ask("b", str(n))) for n in range(600)]  # more than the window: some wait for room
    await b.incoming().__anext__()
    await a.aclose()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(r) for r in results} == {MeshClosed}
    with pytest.raises(MeshClosed):
        await a.ask("b", "x")
    with pytest.raises(MeshClosed):
        await a.send("b", "x")
    assert (await asyncio.gather(a.aclose(), a.aclose())) == [None, None]


async def test_one_id_is_run_once_and_answered_again_with_the_same_answer(members: Members) -> None:
    a, b = await members.join("a"), await members.join("b")
    runs: list[str] = []

    async def count(incoming: Incoming) -> None:
        runs.append(incoming.message_id)
        await incoming.reply(f"run {len(runs)}")

    members.serve(b, count)
    first = await a.ask("b", "x", message_id="tool-call-1")
    again = await a.ask("b", "x", message_id="tool-call-1")
    assert (first.content, again.content) == ("run 1", "run 1")
    assert runs == ["tool-call-1"]


async def test_what_cannot_be_sent_is_refused_and_names_the_fault(members: Members) -> None:
    a, b = await members.join("a"), await members.join("b")
    members.serve(b, echo)
    with pytest.raises(MessageTooBig) as caught:
        await a.ask("b", "x" * 300_000)
    assert caught.value.size > 300_000
    with pytest.raises(ValueError, match="peer id"):
        await a.ask("no such name!", "x")
    with pytest.raises(ValueError, match="message_id"):
        await a.ask("b", "x", message_id="not an id")
    with pytest.raises(ValueError, match="skill"):
        await a.ask("b", "x", skill="s", arguments={"skill": 1})
    with pytest.raises(ValueError, match="surrogates"):
        await a.ask("b", "\ud800")
    with pytest.raises(TypeError, match="str"):
        await a.ask("b", 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="conversation is a int"):
        await a.ask("b", "x", conversation=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="conversation has 129 characters"):
        await a.ask("b", "x", conversation="c" * 129)
    with pytest.raises(ValueError, match="conversation has 129 characters"):
        await a.send("b", "x", conversation="c" * 129)
    with pytest.raises(ValueError, match="hops -1"):
        await a.ask("b", "x", hops=-1)
    with pytest.raises(TypeError, match="chain"):
        await a.send("b", "x", chain=(5,))  # type: ignore[arg-type]
    with pytest.raises(PeerUnreachable, match="itself"):
        await a.ask("a", "x")
    assert (await a.ask("b", "still fine")).content == "re:still fine"


async def test_an_answer_that_is_too_big_fails_on_both_sides(members: Members) -> None:
    a, b = await members.join("a"), await members.join("b")
    told: list[BaseException] = []

    async def verbose(incoming: Incoming) -> None:
        try:
            await incoming.reply("x" * 300_000)
        except MessageTooBig as exc:
            told.append(exc)

    members.serve(b, verbose)
    with pytest.raises(RemoteError) as caught:
        await a.ask("b", "x")
    assert caught.value.code == "message_too_big"
    assert caught.value.executed == "yes"
    assert len(told) == 1


async def test_unicode_and_the_largest_message_arrive_as_they_were(members: Members) -> None:
    a, b = await members.join("a"), await members.join("b")

    async def same(incoming: Incoming) -> None:
        await incoming.reply(incoming.content)

    members.serve(b, same)
    for text in ("", "\x00\u2028\u2029\r\n\t", "жираф 🦒 \u202e", "y" * 261_000):
        assert (await a.ask("b", text)).content == text
