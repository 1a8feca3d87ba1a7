"""What is measured, the same for every system; runs in the client's process."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from agents import order, planner
from langchain_core.messages import HumanMessage, ToolCall
from side import Side

TURN_WORDS = 8  # the answer of a turn that is not streamed
STREAM_WORDS, PACE_US = 200, 2000
TURNS_PER_THREAD = 10  # then a new conversation: a history that grows without end would measure itself


def quantile(values: list[float], q: float) -> float:
    """The value below which a share `q` of the sorted values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


class Workload:
    """Every method is one metric: it runs a short burst and returns figures. `cap_s` ends a burst of a slow system."""

    def __init__(self, side: Side, cap_s: float) -> None:
        self.side, self.cap_s = side, cap_s
        self.planner = planner(side.specialist)
        self.numbers = count()

    def thread(self, n: int) -> str:
        """The conversation of the n-th turn of this run."""
        return f"thread-{n // TURNS_PER_THREAD}"

    async def warm_up(self) -> None:
        """Everything once or twice, so that no import or first connection is measured."""
        for metric, goes in ((self.call, 20), (self.turn, 3), (self.agent, 3)):
            await metric(goes)
        if self.side.streams:
            await self.burst(1)

    async def timed(self, goes: int, once: Callable[[], Awaitable[Any]]) -> dict[str, Any]:
        """Microseconds of `goes` runs one after another."""
        gc.collect()
        took: list[float] = []
        end = time.monotonic() + self.cap_s
        while len(took) < goes and (time.monotonic() < end or not took):
            began = time.perf_counter_ns()
            await once()
            took.append((time.perf_counter_ns() - began) / 1e3)
        return {"p50_us": statistics.median(took), "p99_us": quantile(took, 0.99), "n": len(took)}

    async def call(self, goes: int = 200) -> dict[str, Any]:
        """A tool call and back, without a model on either side."""

        async def once() -> None:
            n = next(self.numbers)
            call = ToolCall(name="echo", args={"message": f"hello {n}"}, id=f"call-{n}", type="tool_call")
            said = await self.side.echo.ainvoke(call, {"configurable": {"thread_id": "echo"}})
            if f"hello {n}" not in str(said.content):
                raise RuntimeError(f"wrong echo: {said.content!r}")

        return await self.timed(goes, once)

    async def turn(self, goes: int = 50) -> dict[str, Any]:
        """One turn of a conversation with the served graph, its history kept there."""

        async def once() -> None:
            n = next(self.numbers)
            check(await self.side.ask(f"{n}: {order(TURN_WORDS)}", self.thread(n)), TURN_WORDS)

        return await self.timed(goes, once)

    async def agent(self, goes: int = 30) -> dict[str, Any]:
        """A whole agent here calls the specialist as its tool and ends: two model steps here, one turn there."""

        async def once() -> None:
            n = next(self.numbers)
            given = {"messages": [HumanMessage(f"{n}: {order(TURN_WORDS)}")]}
            thread = f"planner-{self.thread(n)}"
            out = await self.planner.ainvoke(given, {"configurable": {"thread_id": thread}})
            check(out["messages"][-1].text.removeprefix("done: "), TURN_WORDS)

        return await self.timed(goes, once)

    async def paced(self, goes: int = 2) -> dict[str, Any]:
        """Streams at the pace of a fast model: time to the first word, and how long each word was on its way."""
        firsts, late = [], []
        for _ in range(goes):
            began = time.monotonic_ns()
            arrivals = await self.read(PACE_US)
            firsts.append((arrivals[0][1] - began) / 1e3)
            late += [(came - said) / 1e3 for said, came in arrivals]
        late_p50, late_p99 = statistics.median(late), quantile(late, 0.99)
        return {"first_us": statistics.median(firsts), "p50_us": late_p50, "p99_us": late_p99, "n": len(late)}

    async def burst(self, goes: int = 5) -> dict[str, Any]:
        """Streams as fast as they go: microseconds for each of the words, all of a turn's cost in them."""

        async def once() -> None:
            await self.read(0)

        found = await self.timed(goes, once)
        return {**found, "word_us": found["p50_us"] / STREAM_WORDS}

    async def read(self, pace_us: int) -> list[tuple[int, int]]:
        """When each word of one stream was said and when it came, in ns of the monotonic clock."""
        arrivals, rest = [], ""
        async for text in self.side.stream(order(STREAM_WORDS, pace_us), f"stream-{next(self.numbers)}"):
            came = time.monotonic_ns()
            *words, rest = (rest + text).split(" ")
            arrivals += [(int(word), came) for word in words]
        if len(arrivals) != STREAM_WORDS:
            raise RuntimeError(f"{len(arrivals)} of {STREAM_WORDS} words came")
        return arrivals


def check(text: str, words: int) -> None:
    """Raise unless the answer is whole."""
    if len(text.split()) != words:
        raise RuntimeError(f"not an answer of {words} words: {text!r}")


METRICS = ("call", "turn", "agent", "paced", "burst")
STREAMED = {"paced", "burst"}
