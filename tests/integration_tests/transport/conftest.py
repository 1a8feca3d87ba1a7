"""A real registry process, and members over every kind of transport."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chatixia_langchain.config import MeshConfig
from chatixia_langchain.transport.base import (
    LinkState,
    PeerDown,
    PeerJoined,
    PeerLeft,
    PeerUp,
    Received,
    Transport,
    TransportEvent,
    TransportInfo,
)
from chatixia_langchain.transport.memory import MemoryHub

from ...support import sidecar_binary as sidecar_binary

NAMES = [f"m{n:03}" for n in range(300)]


class RegistryProcess:
    """A registry started by its command line; `url` and `key(name)`."""

    def __init__(self, folder: Path) -> None:
        self._keys = {f"key-{name}-0123456789abcdef": {"peer_id": name, "role": "agent"} for name in NAMES}
        self._file, self.port = folder / "keys.json", 0
        self._file.write_text(json.dumps({"keys": self._keys}))
        self._file.chmod(0o600)
        self.start()

    def start(self) -> None:
        """Start it, on the port it had before if there was one."""
        self.proc = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "chatixia_langchain",
                "registry",
                "--port",
                str(self.port),
                "--api-keys",
                self._file,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.proc.stdout is not None
        line = self.proc.stdout.readline().decode()
        assert "listening on http://" in line, line
        self.url = line.split()[-1]
        self.port = int(self.url.rsplit(":", 1)[1])

    def kill(self) -> None:
        """End it without a word."""
        self.proc.kill()
        self.proc.wait()
        assert self.proc.stdout is not None
        self.proc.stdout.close()

    @staticmethod
    def key(name: str) -> str:
        """The API key of `name`."""
        return f"key-{name}-0123456789abcdef"


@pytest.fixture(scope="session")
def registry() -> Iterator[RegistryProcess]:
    folder = Path(tempfile.mkdtemp(prefix="chatixia-test-"))
    proc = RegistryProcess(folder)
    yield proc
    proc.kill()
    shutil.rmtree(folder)


_names = itertools.cycle(NAMES)  # a name is used once in a run, so that tests do not meet each other's leftovers


class Member:
    """One member of a mesh, and everything it heard."""

    def __init__(self, name: str, transport: Transport) -> None:
        self.name, self.transport = name, transport
        self.events: list[TransportEvent] = []
        self.info: TransportInfo
        self._heard = asyncio.Event()

    def sink(self, event: TransportEvent) -> None:
        self.events.append(event)
        self._heard.set()

    async def start(self) -> Member:
        self.info = await self.transport.start(self.sink)
        return self

    def bodies(self, peer: str) -> list[bytes]:
        return [e.body for e in self.events if isinstance(e, Received) and e.peer == peer]

    def ups(self, peer: str) -> list[PeerUp]:
        return [e for e in self.events if isinstance(e, PeerUp) and e.peer == peer]

    def downs(self, peer: str) -> list[PeerDown]:
        return [e for e in self.events if isinstance(e, PeerDown) and e.peer == peer]

    def joined(self) -> set[str]:
        return {e.peer for e in self.events if isinstance(e, PeerJoined)}

    def left(self) -> set[str]:
        return {e.peer for e in self.events if isinstance(e, PeerLeft)}

    def links(self) -> list[bool]:
        return [e.up for e in self.events if isinstance(e, LinkState)]

    async def until(self, what: Callable[[], Any], timeout_s: float = 20.0) -> None:
        """Wait until `what()` is true; looks again at every event."""
        async with asyncio.timeout(timeout_s):
            while not what():
                self._heard.clear()
                await self._heard.wait()

    async def send_all(self, peer: str, bodies: list[bytes]) -> None:
        """Send in order, waiting whenever the window is full."""
        from chatixia_langchain.errors import Busy

        for body in bodies:
            while True:
                try:
                    self.transport.send(peer, body)
                    break
                except Busy:
                    await self.transport.writable(peer)


class World:
    """Makes members, and closes them."""

    def __init__(self, kinds: tuple[str, str], registry_of: Callable[[], RegistryProcess]) -> None:
        self.kinds, self._registry_of = kinds, registry_of
        self.hub = MemoryHub()
        self.members: list[Member] = []

    def make(self, side: int, **settings: Any) -> Member:
        """A member that is not started yet; `side` 0 or 1 decides its kind where kinds are mixed."""
        kind, name = self.kinds[side], next(_names)
        if kind == "memory":
            member = Member(name, self.hub.transport(name))
        else:
            registry = self._registry_of()
            config = MeshConfig.make(name, registry=registry.url, api_key=registry.key(name), env={}, **settings)
            member = Member(name, self._transport(kind, config))
        self.members.append(member)
        return member

    def _transport(self, kind: str, config: MeshConfig) -> Transport:
        if kind == "mailbox":
            from chatixia_langchain.transport.mailbox import MailboxTransport

            return MailboxTransport(config, poll_s=0.2)
        if kind == "aiortc":
            rtc = pytest.importorskip("chatixia_langchain.transport.rtc")
            return rtc.RtcTransport(config)  # type: ignore[no-any-return]
        from dataclasses import replace

        from chatixia_langchain.transport.sidecar import SidecarTransport

        return SidecarTransport(replace(config, sidecar_binary=sidecar_binary()))

    async def two(self) -> tuple[Member, Member]:
        """Two started members that know of each other: a dial to who is not online (yet) fails, and should."""
        a, b = await self.make(0).start(), await self.make(1).start()
        await a.until(lambda: b.name in a.joined())
        await b.until(lambda: a.name in b.joined())
        return a, b

    async def pair(self) -> tuple[Member, Member]:
        """Two started members, `a` with an open channel to `b`."""
        a, b = await self.two()
        await a.transport.connect(b.name)
        await b.until(lambda: b.ups(a.name))
        return a, b

    async def aclose(self) -> None:
        for member in self.members:
            await member.transport.aclose()


KINDS = {
    "memory": ("memory", "memory"),
    "mailbox": ("mailbox", "mailbox"),
    "sidecar": ("sidecar", "sidecar"),
    "aiortc": ("aiortc", "aiortc"),
    "sidecar-aiortc": ("sidecar", "aiortc"),
    "aiortc-sidecar": ("aiortc", "sidecar"),
}


@pytest.fixture(params=list(KINDS))
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    kinds = KINDS[request.param]
    if "sidecar" in kinds:
        sidecar_binary()
    w = World(kinds, lambda: request.getfixturevalue("registry"))
    if kinds != ("memory", "memory"):
        request.getfixturevalue("registry")  # before the loop is busy: it starts a process
    yield w
    await w.aclose()
