"""A paused thread holds its mail, within bounds; decisions overtake it; and nobody else waits for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatixia_langchain import Incoming
from chatixia_langchain.agent import conversation
from chatixia_langchain.agent.conversation import Router
from chatixia_langchain.errors import Busy

from .test_router import Turns, message


async def until_held(router: Router) -> None:
    for _ in range(1000):
        if all(lane.held for lane in router._lanes.values()):
            return
        await asyncio.sleep(0.005)
    raise AssertionError("nothing is held")


def decision(answers: list[Any], **more: Any) -> Incoming:
    made = message("decision", expects_reply=True, meta={"resume": {"of": "x", "values": {"i": True}}}, **more)
    made._answer = noting(answers)
    return made


def noting(answers: list[Any]) -> Any:
    async def note(answer: Any, _: Any) -> None:
        answers.append(answer)

    return note


async def test_a_paused_thread_holds_its_mail_and_a_decision_overtakes_it() -> None:
    turns = Turns()
    turns.gate.set()
    turns.paused = True
    router = Router("me", turns, max_concurrency=1, max_queue=8)
    for n, asks in enumerate((False, False, True, False)):
        await router.feed(message(str(n), expects_reply=asks))
    await until_held(router)
    assert (turns.texts, router.waiting) == ([], 4)
    assert turns.waiting == ["0", "1", "2", "3"], "all that waits is told, whatever its next turn would take"
    await router.feed(decision([]))
    await turns.until(5)
    assert turns.texts == [["decision"], ["0", "1"], ["2"], ["3"]], "nothing lost, doubled or turned round"
    await router.aclose()


async def test_a_held_request_is_failed_before_its_time_is_over() -> None:
    """So that the asker hears that a human is waited for, and not only that time ran out."""
    turns, answers = Turns(), list[Any]()
    turns.gate.set()
    turns.paused = True
    router = Router("me", turns, max_concurrency=1, max_queue=8)
    short, long = (message(str(n), expects_reply=True, ttl_s=n) for n in (0.3, 60))
    short._answer = long._answer = noting(answers)
    await router.feed(short)
    await router.feed(long)
    await asyncio.sleep(0.2)
    assert [a.code for a in answers] == ["held"]
    assert router.waiting == 1
    await router.feed(decision([]))
    await turns.until(2)
    assert turns.texts == [["decision"], ["60"]]
    await router.aclose()


async def test_a_repeated_request_is_answered_while_others_are_held() -> None:
    turns, answers = Turns(), list[Any]()
    turns.gate.set()
    turns.paused = True
    turns.repeated = {"id-again"}
    router = Router("me", turns, max_concurrency=1, max_queue=8)
    await router.feed(message("held", expects_reply=True))
    await until_held(router)
    again = message("again", expects_reply=True)
    again._answer = noting(answers)
    await router.feed(again)
    while not answers:
        await asyncio.sleep(0.005)
    assert (answers, router.waiting) == (["as before"], 1)
    await router.aclose()


async def test_mail_for_a_paused_thread_is_bounded_and_stops_nobody_else() -> None:
    """A human may be gone for days: mail past the bound is dropped with a word, requests are refused, and the loop
    goes on, or the decision itself could never come in."""
    turns, dropped = Turns(), list[str]()
    turns.gate.set()
    turns.paused = True
    router = Router("me", turns, max_concurrency=1, max_queue=2, on_drop=lambda thread, m: dropped.append(m.content))
    for n in range(5):
        await asyncio.wait_for(router.feed(message(str(n))), 5)
        await until_held(router)
    assert dropped == ["2", "3", "4"]
    with pytest.raises(Busy):
        await router.feed(message("q", expects_reply=True))
    await router.feed(decision([]))
    await turns.until(3)
    assert turns.texts == [["decision"], ["0", "1"]]
    await router.aclose()


async def test_paused_threads_that_fill_all_room_stop_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were mail for one more conversation waited for, the decisions behind it could never come in."""
    monkeypatch.setattr(conversation, "MAX_THREADS", 2)
    turns, dropped = Turns(), list[str]()
    turns.gate.set()
    turns.paused = True
    router = Router("me", turns, max_concurrency=1, max_queue=2, on_drop=lambda thread, m: dropped.append(m.content))
    for name in ("x", "y"):
        await router.feed(message(name, conversation=name))
        await until_held(router)
    await asyncio.wait_for(router.feed(message("z", conversation="z")), 5)
    with pytest.raises(Busy):
        await router.feed(message("q", conversation="z", expects_reply=True))
    assert dropped == ["z"]
    await router.feed(decision([], conversation="x"))
    await turns.until(2)
    assert turns.texts == [["decision"], ["x"]]
    await router.aclose()


async def test_a_feeder_that_waits_for_room_is_let_go_when_the_thread_pauses() -> None:
    """The turn that made it wait may itself end in a pause."""
    turns = Turns()
    router = Router("me", turns, max_concurrency=1, max_queue=2)
    await router.feed(message("running"))
    await asyncio.sleep(0.01)
    for text in "ab":
        await router.feed(message(text))
    waits = asyncio.create_task(router.feed(message("c")))
    await asyncio.sleep(0.01)
    assert not waits.done()
    turns.paused = True
    turns.gate.set()
    await asyncio.wait_for(waits, 5)
    await router.aclose()
