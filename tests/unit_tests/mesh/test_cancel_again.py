"""A cancel that a broken channel swallowed is told again: a peer does not work on for nobody until its deadline."""

from __future__ import annotations

import asyncio

import pytest

from chatixia_langchain import Incoming
from chatixia_langchain.mesh.outgoing import Outgoing
from chatixia_langchain.testing import FakeMesh

ASKS = 30


async def stopped(fake: FakeMesh, within_s: float) -> int:
    """Ask `ASKS` times over a wire that loses, give all up once they run; how many runs ended within the time."""
    running: set[str] = set()
    ended: set[str] = set()

    async def work(message: Incoming) -> str:
        running.add(message.message_id)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.add(message.message_id)
            raise
        return "done"

    async with fake:
        await fake.join("worker", work)
        asks = [asyncio.create_task(fake.ask("worker", "work", conversation=str(n))) for n in range(ASKS)]
        async with asyncio.timeout(30):
            while len(running) < 8:  # as many as run at once
                await asyncio.sleep(0.01)
        begun = set(running)
        for ask in asks:
            ask.cancel()
        await asyncio.gather(*asks, return_exceptions=True)
        try:
            async with asyncio.timeout(within_s):
                while not begun <= ended:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pass
        return len(begun & ended) - len(begun)


@pytest.mark.parametrize("seed", range(4))
async def test_every_run_ends_though_the_wire_swallows_cancels(seed: int) -> None:
    assert await stopped(FakeMesh("asker", loss=0.3, seed=seed), within_s=20) == 0


async def test_told_once_some_runs_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same without the repetition: the test above can fail."""
    monkeypatch.setattr(Outgoing, "cancel_again", lambda self, peer: None)
    left = [await stopped(FakeMesh("asker", loss=0.3, seed=seed), within_s=2) for seed in range(4)]
    assert min(left) < 0


async def test_what_is_cancelled_and_asked_again_is_not_cancelled_again() -> None:
    async def answer(message: Incoming) -> str:
        await asyncio.sleep(0.2)
        return f"attempt {message.attempt}"

    async with FakeMesh("asker") as fake:
        await fake.join("worker", answer)
        first = asyncio.create_task(fake.ask("worker", "work", message_id="same"))
        await asyncio.sleep(0.1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        second = asyncio.create_task(fake.ask("worker", "work", message_id="same"))
        await asyncio.sleep(0.05)
        fake.partition("asker", "worker")
        await asyncio.sleep(0.1)
        fake.heal()
        assert (await second).content == "attempt 2"
