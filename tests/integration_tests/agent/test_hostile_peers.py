"""Hostile peers at the other end of a real data channel: their texts make no tool act, their frames break nothing.

The texts and frames are those of the unit tests; here real sidecars carry them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chatixia_langchain import ChatLoop, InboundPolicy, LocalMesh, Mesh, MeshAgent, MeshError
from chatixia_langchain.testing import ScriptedChat

from ...unit_tests.agent.hostile import BYSTANDER, GOALS, STYLES, Harm
from ...unit_tests.agent.test_hostile_frames import NOT_UNDERSTOOD
from ...unit_tests.agent.test_hostile_texts import KINDS
from ..mesh.conftest import local as local  # a fixture

pytestmark = pytest.mark.timeout(60)


@asynccontextmanager
async def served(*pairs: tuple[Mesh, Any], **policy: Any) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(MeshAgent(m, a, policy=InboundPolicy(**policy)).serve()) for m, a in pairs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("tools", [(), "all"])
@pytest.mark.parametrize("kind", KINDS)
async def test_every_style_of_text(local: LocalMesh, kind: str, tools: Any) -> None:
    """Off and on: with the policy off the same texts do their harm."""
    harm, goals = Harm(), list(GOALS)
    victim, bystander, attacker = [await local.join(n) for n in ("victim", BYSTANDER, "attacker")]
    await attacker.wait_for_peer("victim")
    await victim.wait_for_peer(BYSTANDER)
    words = [style(goals[n % len(goals)]) for n, style in enumerate(STYLES.values())]

    async def ask(text: str) -> str:
        try:
            return (await attacker.ask("victim", text, timeout=30)).content
        except MeshError as exc:
            return f"[{exc.code}]"

    async with served((victim, KINDS[kind](victim, harm)), (bystander, harm.bystander), tools=tools):
        answers = await asyncio.gather(*(ask(text) for text in words))
        assert await ask("hello") == "nothing to do"
    assert len(harm.read) == len(words) + 1
    if tools == "all":
        assert len(harm.done) >= len(words)
    else:
        assert harm.done == []
        assert all("tool_refused" in a for a in answers)


async def test_raw_frames(local: LocalMesh) -> None:
    """Past `Mesh`, from the sidecar's own door: what one line of JSON can carry arrives and is dropped, the rest is
    refused before it leaves; honest questions are answered all the while.
    """
    victim, attacker, honest = [await local.join(n) for n in ("victim", "attacker", "honest")]
    for mesh in (attacker, honest):
        await mesh.wait_for_peer("victim")
    seen: list[str] = []
    model = ScriptedChat(rule=lambda messages, _: seen.append(messages[-1].text) or "ok")  # type: ignore[func-returns-value]
    async with served((victim, ChatLoop(model))):
        assert (await attacker.ask("victim", "hello", timeout=30)).content == "ok"  # the channel is open
        engine = attacker._lifetime.engine
        assert engine is not None
        sent, stopped = 0, dict[str, str]()
        for case, body in NOT_UNDERSTOOD.items():
            try:
                engine.core.transport.send("victim", body)
            except MeshError as exc:
                stopped[case] = exc.code
                continue
            sent += 1
            assert (await honest.ask("victim", f"after {case}", timeout=30)).content == "ok"
        assert (await attacker.ask("victim", "still here?", timeout=30)).content == "ok"
        counters = (await victim.status())["counters"]
    assert set(stopped.values()) <= {"invalid_line", "message_too_big"}
    assert 20 < counters.get("bad_frames", 0) <= sent
    assert len(seen) == 2 + sent, "no model ran for a frame that was not understood"
