"""The demo's agents as the demo sees them: a process each, told and heard by JSON lines. See `demo_member.py`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from .demo_view import View

STOP_S = 5.0
MAX_LINE_BYTES = 1 << 20  # a model's answer and more


class DemoFailed(Exception):
    """The demo did not show what it is to show; the text says what was missing."""


@dataclass
class Member:
    """One agent's process, and what it told."""

    name: str
    process: asyncio.subprocess.Process
    told: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)  # a demo's worth: a few dozen
    seen: list[dict[str, Any]] = field(default_factory=list)

    def tell(self, **what: Any) -> None:
        """Send one order. Does nothing when the process has ended: `until` tells of that."""
        assert self.process.stdin is not None
        if not self.process.stdin.is_closing():
            self.process.stdin.write(json.dumps(what).encode() + b"\n")

    async def until(self, *events: str) -> dict[str, Any]:
        """Wait until the member tells one of `events`. Raises DemoFailed when it failed or ended."""
        while True:
            event = await self.told.get()
            if event["event"] in events:
                return event
            if event["event"] in ("failed", "ended"):
                raise DemoFailed(f"{self.name}: {event['why']}")


@asynccontextmanager
async def started(name: str, view: View) -> AsyncIterator[Member]:
    """Start the process of member `name`; it has ended when this is left, however it is left."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chatixia_langchain.cli.demo_member", name,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=_env(os.environ), limit=MAX_LINE_BYTES,
        start_new_session=True,  # Ctrl-C is for us: we end the members in order
    )  # fmt: skip
    member = Member(name, process)
    reading = asyncio.create_task(_read(member, view), name=f"demo-{name}")
    try:
        yield member
    finally:
        await asyncio.shield(_stop(process))
        await reading


def _env(env: Mapping[str, str]) -> dict[str, str]:
    """Ours, without a proxy between the parts of one machine."""
    around = ",".join(filter(None, (env.get("NO_PROXY"), env.get("no_proxy"), "127.0.0.1")))
    return {**env, "NO_PROXY": around, "no_proxy": around}


async def _read(member: Member, view: View) -> None:
    assert member.process.stdout is not None
    async for line in member.process.stdout:
        event = json.loads(line)
        view.event(member.name, event)
        member.seen.append(event)
        member.told.put_nowait(event)
    code = await member.process.wait()
    member.told.put_nowait({"event": "ended", "why": f"its process ended early (exit code {code})"})


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Close its input, which ends it; then ask, then force."""
    assert process.stdin is not None
    process.stdin.close()
    for harder in (process.terminate, process.kill):
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
                return
        except TimeoutError:
            with suppress(ProcessLookupError):
                harder()
    await process.wait()
