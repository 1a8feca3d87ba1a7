"""The faults: one function per cell, named as in the matrix. Each returns a verdict and says what else it saw.

A cell's figures are a dataclass, so that a short run is the same cell with smaller ones.
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from typing import Any

from .lab import Lab, Member
from .oracle import Verdict

LOAD = 30.0  # messages a second each way


@dataclass(frozen=True)
class Kills:
    """F1, F2: a sidecar is killed again and again, at random moments."""

    times: int = 10
    apart_s: tuple[float, float] = (1.5, 4.0)


@dataclass(frozen=True)
class Span:
    """How long a fault lasts, and what runs before and after it."""

    fault_s: float = 15.0
    before_s: float = 2.0
    after_s: float = 6.0


async def _both(a: Member, b: Member, rate: float = LOAD, **more: Any) -> None:
    await a.do("load", to="b", rate=rate, **more)
    await b.do("load", to="a", rate=rate, **more)


async def generation(a: Member, peer: str = "b") -> Any:
    """Of the channel: another one means that it was torn down."""
    return (await a.do("status"))["links"][peer]["generation"]


async def _kills(lab: Lab, whose: str, figures: Kills) -> Verdict:
    a, b = await lab.pair()
    await _both(a, b)
    for _ in range(figures.times):
        await asyncio.sleep(lab.random.uniform(*figures.apart_s))
        pid = await lab.members[whose].do("sidecar")
        if pid:
            os.kill(pid, signal.SIGKILL)
            lab.healed()
    await asyncio.sleep(3)
    return await lab.verdict()


async def f1(lab: Lab, figures: Kills = Kills()) -> Verdict:
    """The sidecar of one side is killed with kill -9, again and again."""
    return await _kills(lab, "a", figures)


async def f2(lab: Lab, figures: Kills = Kills()) -> Verdict:
    """The sidecar of the other side is killed: acknowledgements are lost with it."""
    return await _kills(lab, "b", figures)


async def f12(lab: Lab, figures: Span = Span()) -> Verdict:
    """The two cannot reach each other, but both the registry: the mailbox takes over, and the channel later again."""
    a, b = await lab.pair()
    await _both(a, b, 20.0)
    await asyncio.sleep(figures.before_s)
    lab.wire.cut("a", "b")
    await asyncio.sleep(figures.fault_s)
    lab.wire.heal("a", "b")
    lab.healed()
    await asyncio.sleep(figures.after_s)
    verdict = await lab.verdict()
    verdict.notes.append(f"{verdict.by_mailbox} by mailbox")
    return verdict
