"""Agents that would go on for ever stop, and say why: in memory, and between real sidecars.

An agent here is a function, so that nothing but the guards can stop it; what it sends carries its turn's place as any
agent's does. A liar is one that leaves its turn first, so that all it sends looks like a new request of no hops.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest

from chatixia_langchain import InboundPolicy, Incoming, LocalMesh, Mesh, MeshAgent, MeshError

from ...support import sidecar_binary, until

pytestmark = pytest.mark.timeout(60)
FAR: dict[str, Any] = {"max_hops": 10_000, "max_visits": 10_000}  # neither hops nor circles stop anything
Handler = Callable[[Incoming], Awaitable[str]]


@pytest.fixture(params=["memory", "sidecar"])
async def local(request: pytest.FixtureRequest) -> AsyncIterator[LocalMesh]:
    settings = {"sidecar_binary": sidecar_binary()} if request.param == "sidecar" else {}
    async with LocalMesh(transport=request.param, **settings) as mesh:
        yield mesh


@asynccontextmanager
async def served(*pairs: tuple[Mesh, Handler], **policy: Any) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(MeshAgent(m, a, policy=InboundPolicy(**policy)).serve()) for m, a in pairs]
    try:
        for mesh, _ in pairs:
            for other, _ in pairs:
                if other is not mesh:
                    await mesh.wait_for_peer(other.name)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Talker:
    """Answers every message by a new message. `said` makes its text; `lies`: it forgets where it stands first."""

    def __init__(self, mesh: Mesh, said: Callable[[], str], *, lies: bool = False) -> None:
        self.mesh, self._said, self._lies = mesh, said, lies
        self.turns = 0
        self.stopped: list[MeshError] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __call__(self, message: Incoming) -> str:
        self.turns += 1
        sent = self.mesh.send(message.peer, self._said(), conversation="chat")
        if self._lies:
            task = contextvars.Context().run(asyncio.create_task, sent)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return ""
        try:
            await sent
        except MeshError as exc:
            self.stopped.append(exc)
            raise
        return ""


async def quiet(*talkers: Talker) -> int:
    """Wait until no new turn began for half a second; how many there were."""
    while True:
        before = sum(t.turns for t in talkers)
        await asyncio.sleep(0.5)
        if before and sum(t.turns for t in talkers) == before:
            return before


def fresh(prefix: str) -> Callable[[], str]:
    """Texts that are all different."""
    numbers = count()
    return lambda: f"{prefix} {next(numbers)}"


async def pair(local: LocalMesh, **options: Any) -> tuple[Talker, Talker]:
    a, b = [await local.join(n) for n in ("a", "b")]
    return Talker(a, fresh("a says"), **options), Talker(b, fresh("b says"), **options)


@pytest.mark.parametrize("budget", [6, 20])
async def test_two_that_always_reply_stop_within_their_turns(local: LocalMesh, budget: int) -> None:
    """Twice, so that it is the budget that stops them and nothing else."""
    a, b = await pair(local)
    async with served((a.mesh, a), (b.mesh, b), **FAR, max_turns=budget):
        await b.mesh.send("a", "start", conversation="chat")
        assert await quiet(a, b) == budget
    (why,) = a.stopped + b.stopped
    assert why.code == "budget_exceeded"
    assert "turns" in why.message


async def test_two_that_always_reply_are_a_circle_by_default(
    local: LocalMesh, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    a, b = await pair(local)
    async with served((a.mesh, a), (b.mesh, b)):
        await b.mesh.send("a", "start", conversation="chat")
        assert await quiet(a, b) <= 4
    assert "in a circle" in caplog.text


async def test_two_that_say_the_same_again_and_again_are_stopped(
    local: LocalMesh, caplog: pytest.LogCaptureFixture
) -> None:
    """Polite agents that thank each other for ever, each time as if it were new."""
    caplog.set_level(logging.WARNING)
    a, b = await pair(local, lies=True)
    a._said = b._said = lambda: "Thank you!"
    async with served((a.mesh, a), (b.mesh, b), max_repeats=3):
        await b.mesh.send("a", "Thank you!", conversation="chat")
        assert await quiet(a, b) == 6
    assert "[repeated]" in caplog.text
    assert "the same 3 times in a row" in caplog.text


async def test_liars_that_name_fresh_roots_are_bounded_per_peer(
    local: LocalMesh, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    a, b = await pair(local, lies=True)
    async with served((a.mesh, a), (b.mesh, b), max_turns_per_minute=20):
        await b.mesh.send("a", "start", conversation="chat")
        turns = await quiet(a, b)
    assert 40 <= turns <= 60, "20 of each, and what came in again meanwhile"
    assert "20 turns within a minute" in caplog.text


async def test_flood_of_one_liar_does_not_take_the_turns_of_others(local: LocalMesh) -> None:
    """Each message of another conversation and root; requests are told why, and when to come again."""
    victim, liar, user = [await local.join(n) for n in ("victim", "liar", "user")]
    served_turns: list[str] = []
    refused: list[MeshError] = []

    async def answer(message: Incoming) -> str:
        served_turns.append(message.peer)
        return "ok"

    async with served((victim, answer), max_turns_per_minute=20):
        for mesh in (liar, user):
            await mesh.wait_for_peer("victim")

        async def ask(n: int) -> str:
            try:
                return (await liar.ask("victim", f"q{n}", timeout=20)).content
            except MeshError as exc:
                refused.append(exc)
                return exc.code

        results = await asyncio.gather(*(ask(n) for n in range(100)))
        assert set(results) == {"ok", "budget_exceeded"}
        assert all(exc.retryable and "the next in" in exc.message for exc in refused)
        assert 20 <= results.count("ok") <= 40
        assert served_turns.count("liar") == results.count("ok")
        assert (await user.ask("victim", "may I?", timeout=20)).content == "ok"


@pytest.mark.parametrize(
    ("policy", "code", "turns"),
    [
        ({}, "hop_limit", 6),  # each of the three may be there twice
        ({"max_visits": 100}, "hop_limit", 8),
        ({**FAR, "max_turns": 12}, "budget_exceeded", 12),
    ],
)
async def test_three_that_ask_each_other_in_a_circle_end(
    local: LocalMesh, policy: dict[str, Any], code: str, turns: int
) -> None:
    """The refusal comes back through all of them to the one that asked first."""
    names = ("a", "b", "c")
    meshes = [await local.join(n) for n in names]
    user = await local.join("user")
    ran: list[str] = []

    def asking(mesh: Mesh, peer: str) -> Handler:
        async def handle(message: Incoming) -> str:
            ran.append(mesh.name)
            try:
                return (await mesh.ask(peer, f"{message.content}.")).content
            except MeshError as exc:
                return f"[{exc.code}] {exc.message}"

        return handle

    agents = [(m, asking(m, names[(n + 1) % 3])) for n, m in enumerate(meshes)]
    async with served(*agents, **policy):
        await user.wait_for_peer("a")
        said = (await user.ask("a", "who knows", timeout=30)).content
    assert said.startswith(f"[{code}]")
    assert len(ran) <= turns
    assert len(ran) >= turns - 1
    assert ran == [names[n % 3] for n in range(len(ran))]


async def test_errors_and_broadcasts_get_no_answer(local: LocalMesh) -> None:
    """An agent that fails is told of once, and a broadcast starts no talk."""
    user, a, b = [await local.join(n) for n in ("user", "a", "b")]
    ran: list[str] = []

    async def failing(message: Incoming) -> str:
        ran.append(message.content)
        raise RuntimeError("broken")

    async def polite(message: Incoming) -> str:
        ran.append(message.content)
        return f"thank you for {message.content!r}"

    async with served((a, failing), (b, polite)):
        for peer in ("a", "b"):
            await user.wait_for_peer(peer)
        with pytest.raises(MeshError, match="failed while it worked"):
            await user.ask("a", "one", timeout=20)
        await user.broadcast("two")
        await until(lambda: ran.count("two") == 2)
        inbox = user.incoming()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.7):
                await inbox.__anext__()
    assert sorted(ran) == ["one", "two", "two"]
