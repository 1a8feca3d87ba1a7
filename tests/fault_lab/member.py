"""One agent with its sidecar, inside a namespace: commands as JSON lines on stdin, answers on stdout, events to a file.

    python -m tests.fault_lab.member NAME --registry URL --key KEY --events FILE [--break NAME]

It ends when its stdin does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from typing import Any

from chatixia_langchain import Incoming, Mesh, MeshError, Receipt
from chatixia_langchain.mesh import frames
from chatixia_langchain.transport.sidecar import SidecarTransport

from .breaks import BREAKS

PADDING = "x" * 200
GARBAGE = [b"{", b'{"type":"send"', b"\x00\xff\xfe", b"[]", b'{"type":"no such"}', b"x" * 5000, b'{"type":1}', b"null"]


class Member:
    """The mesh, and what is done with it."""

    def __init__(self, mesh: Mesh, events: str) -> None:
        self.mesh = mesh
        self._log = os.open(events, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._numbers: Counter[tuple[str, str]] = Counter()
        self._loads: set[asyncio.Task[None]] = set()
        self._open: set[asyncio.Task[None]] = set()  # bounded by the mesh's windows
        self._pause_s = 0.0
        self._reply_after_s = 0.0

    def note(self, event: str, id_: str, **more: Any) -> None:
        """One event, in one write: nothing of it is kept back in this process."""
        line = {"t": time.monotonic(), "me": self.mesh.name, "event": event, "id": id_, **more}
        os.write(self._log, json.dumps(line).encode() + b"\n")

    async def serve(self) -> None:
        """Handle what comes, one after the other."""
        async for incoming in self.mesh.incoming():
            self.note(
                "handled",
                incoming.message_id,
                peer=incoming.peer,
                conv=incoming.conversation,
                body=incoming.content[:40],
                path=incoming.path,
            )
            if incoming.expects_reply:
                self._later(self._reply(incoming))
            if self._pause_s:
                await asyncio.sleep(self._pause_s)

    async def _reply(self, incoming: Incoming) -> None:
        await asyncio.sleep(self._reply_after_s)
        self.note("replied", incoming.message_id, to=incoming.peer, body="re:" + incoming.content[:40])
        await incoming.reply("re:" + incoming.content[:40])

    def _later(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _send(self, to: str, conv: str, ttl: float, size: int = 200) -> None:
        self._numbers[to, conv] += 1
        number = self._numbers[to, conv]
        body = f"{self.mesh.name}>{to}/{conv}/{number}:".ljust(40, ".")
        padding = PADDING if size <= 200 else "x" * size
        receipt = await self.mesh.send(to, body + padding, conversation=conv, ttl=ttl)
        self.note("accepted", receipt.message_id, to=to, conv=conv, seq=number, body=body)
        self._later(self._settle(receipt))

    async def _settle(self, receipt: Receipt) -> None:
        await receipt.delivered()
        self.note(
            "settled",
            receipt.message_id,
            to=receipt.peer,
            state=receipt.state,
            path=receipt.path,
            reason=receipt.reason,
        )

    async def _load(self, to: str, conv: str, rate: float, ttl: float, size: int) -> None:
        due = time.monotonic()
        while True:
            await self._send(to, conv, ttl, size)
            due += 1 / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _ask(self, to: str, id_: str, timeout: float) -> None:
        body = f"ask {id_}"
        self._numbers[to, id_] += 1
        self.note("accepted", id_, to=to, conv=id_, seq=self._numbers[to, id_], body=body)
        try:
            reply = await self.mesh.ask(to, body, message_id=id_, conversation=id_, timeout=timeout)
        except MeshError as exc:
            self.note("failed", id_, to=to, reason=f"{type(exc).__name__}: {exc}")
            return
        self.note("answered", id_, to=to, body=reply.content, path=reply.path)

    # commands

    async def load(self, to: str, rate: float = 30.0, conv: str = "c", ttl: float = 120.0, size: int = 200) -> None:
        """Send at a rate, until `unload`."""
        task = asyncio.create_task(self._load(to, conv, rate, ttl, size))
        self._loads.add(task)

    async def unload(self) -> None:
        """Send no more."""
        for task in self._loads:
            task.cancel()
        for result in await asyncio.gather(*self._loads, return_exceptions=True):
            if isinstance(result, Exception):
                self._loads.clear()
                raise result
        self._loads.clear()

    async def burst(self, to: str, count: int = 20, conv: str = "c", ttl: float = 60.0) -> None:
        """Send so many at once."""
        for _ in range(count):
            await self._send(to, conv, ttl)

    async def ask(self, to: str, id: str, timeout: float = 30.0) -> None:
        """Ask, in the background."""
        self._later(self._ask(to, id, timeout))

    async def quiet(self, timeout: float = 60.0) -> int:
        """Wait until every receipt has its final state; returns how many have none."""
        if self._open:
            await asyncio.wait(set(self._open), timeout=timeout)
        return len(self._open)

    async def pause(self, seconds: float) -> None:
        """Handle so slowly from now on."""
        self._pause_s = seconds

    async def reply_after(self, seconds: float) -> None:
        """Answer so late from now on."""
        self._reply_after_s = seconds

    async def connect(self, peer: str, timeout: float = 20.0) -> str:
        """Wait for a channel; returns how long it took, or the error."""
        began = time.monotonic()
        try:
            await self.mesh.wait_for_peer(peer, timeout=timeout)
            await self._transport.connect(peer, timeout_s=timeout)
        except MeshError as exc:
            return f"{type(exc).__name__} after {time.monotonic() - began:.1f} s"
        return ""

    async def sidecar(self) -> int:
        """Its process id."""
        return self._transport.sidecar_pid

    async def status(self) -> Any:
        """See `Mesh.status`."""
        return json.loads(json.dumps(await self.mesh.status(), default=str))

    async def forge(self, to: str, corr: str, body: str) -> None:
        """A reply to what somebody else was asked."""
        me = self.mesh.name
        frame = frames.reply(f"forged-{corr}", me, to, body, corr=corr, conversation=corr, task=False, meta=None)
        self._transport.send(to, frame)

    async def garbage(self) -> None:
        """Bad lines to the sidecar's socket, on our own connection to it."""
        session = self._transport._session
        assert session is not None
        for line in GARBAGE:
            session.link.write(line + b"\n")

    async def bad_frames(self, to: str) -> None:
        """JSON that is no frame, over the channel."""
        for body in (b"{}", b'{"type":5}', b'{"type":"agent_prompt","mesh":{"kind":"message"}}', b'{"mesh":[]}'):
            self._transport.send(to, body)

    @property
    def _transport(self) -> SidecarTransport:
        engine = self.mesh._lifetime.engine
        assert engine is not None
        assert isinstance(engine.core.transport, SidecarTransport)
        return engine.core.transport


async def _commands(member: Member) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        try:
            answer = {"ok": await getattr(member, command["do"])(**command["with"])}
        except Exception as exc:  # noqa: BLE001  the lab raises it again
            answer = {"error": f"{type(exc).__name__}: {exc}"}
        print(json.dumps(answer), flush=True)


async def main(args: argparse.Namespace) -> None:
    """Join, say so, obey."""
    settings: dict[str, Any] = {"connect_timeout_s": args.connect_timeout, "state_dir": args.state_dir}
    async with Mesh(args.name, registry=args.registry, api_key=args.key, transport="sidecar", **settings) as mesh:
        member = Member(mesh, args.events)
        print(json.dumps({"ok": mesh.name}), flush=True)
        serving = asyncio.create_task(member.serve())
        await _commands(member)
        serving.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    for option in ("--registry", "--key", "--events"):
        parser.add_argument(option, required=True)
    parser.add_argument("--state-dir", default="")
    parser.add_argument("--connect-timeout", type=float, default=15.0)
    parser.add_argument("--break", dest="broken", choices=sorted(BREAKS))
    options = parser.parse_args()
    if options.broken:
        BREAKS[options.broken]()
    asyncio.run(main(options))
