"""A mesh over bad wires: a registry and members, each in a network namespace of its own, on one machine.

    async with Lab(folder, seed=1) as lab:
        a, b = await lab.join("a"), await lab.join("b")
        lab.wire.cut("a", "b")

Everything ends with the block, and with this process: members and registry watch their stdin, namespaces have no name.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

from .oracle import Verdict, judge, read
from .wire import Wire, why_not

__all__ = ["Lab", "Member", "Process", "why_not"]
ROOT = Path(__file__).parents[2]
REGISTRY_PORT = 8080  # its namespace is empty
READY_S = 60.0


class Process:
    """A child in a namespace, spoken to in lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        """Its id: `nsenter` became the program itself."""
        return self.process.pid

    async def line(self, timeout_s: float = READY_S) -> str:
        """The next line it prints. Raises RuntimeError when it ended."""
        assert self.process.stdout is not None
        async with asyncio.timeout(timeout_s):
            text = await self.process.stdout.readline()
        if not text:
            raise RuntimeError(f"it ended with {await self.process.wait()}")
        return text.decode()

    async def end(self) -> None:
        """Close its stdin, wait, kill. Idempotent."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            async with asyncio.timeout(8):
                await self.process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


class Member(Process):
    """One agent."""

    name = ""

    async def do(self, command: str, *, wait_s: float = 120.0, **arguments: Any) -> Any:
        """One command; returns its result. Raises RuntimeError with the member's error."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": command, "with": arguments}).encode() + b"\n")
        answer = json.loads(await self.line(wait_s))
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {command}: {answer['error']}")
        return answer["ok"]


class Lab:
    """The hosts, the registry, the members; `heals` are the moments from which on all should work again."""

    def __init__(self, folder: Path, *, seed: int = 1, sidecar: str = "") -> None:
        self.folder, self.seed = folder, seed
        self.random = Random(f"{seed}:lab")
        self.members: dict[str, Member] = {}
        self.heals: list[float] = []
        self.wire = Wire(seed)
        self._keys: dict[str, str] = {}
        self._sidecar = sidecar or os.environ.get("SIDECAR_BINARY", "")
        self._registry: Process | None = None
        self._host = ""

    async def __aenter__(self) -> Lab:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.wire.__enter__()
        try:
            self._host = self.wire.add("registry").address
            self._key("lab")
            await self.start_registry()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        running = [*self.members.values(), *([self._registry] if self._registry else [])]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.process.send_signal(signal.SIGCONT)
        await asyncio.gather(*(m.end() for m in self.members.values()), return_exceptions=True)
        if self._registry:
            await self._registry.end()
        self.wire.__exit__()

    async def _spawn(self, host: str, log: str, *words: str) -> asyncio.subprocess.Process:
        place = self.wire.hosts[host]
        env = {k: v for k, v in os.environ.items() if not k.startswith("CHATIXIA_")}
        env |= {"EXIT_ON_STDIN_EOF": "1", "PYTHONPATH": str(ROOT)}
        if self._sidecar:
            env["SIDECAR_BINARY"] = self._sidecar
        with (self.folder / f"{log}.log").open("ab") as stderr:
            return await asyncio.create_subprocess_exec(
                *place.command(*words),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=env,
                cwd=self.folder,
                pass_fds=(place.fd,),
                start_new_session=True,  # Ctrl-C is for us, who end them in order
            )

    # the registry

    async def start_registry(self) -> None:
        """Start it, also again. The keys are the same."""
        command = [sys.executable, "-m", "chatixia_langchain.cli.registry", "--host", self._host, "--plain-http"]
        command += ["--port", str(REGISTRY_PORT), "--api-keys", "keys.json", "--log-level", "warning"]
        self._registry = Process(await self._spawn("registry", "registry", *command))
        while "listening on" not in await self._registry.line():
            pass

    @property
    def registry_pid(self) -> int:
        """Process id of the registry."""
        assert self._registry is not None
        return self._registry.pid

    async def kill_registry(self) -> None:
        """kill -9."""
        assert self._registry is not None
        self._registry.process.kill()
        await self._registry.process.wait()

    def _key(self, name: str) -> str:
        if name not in self._keys:
            self._keys[name] = f"ck_{secrets.token_urlsafe(32)}"
            entries = {key: {"peer_id": peer, "role": "agent"} for peer, key in self._keys.items()}
            fresh = self.folder / "keys.new"
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump({"keys": entries}, file)
            fresh.replace(self.folder / "keys.json")
        return self._keys[name]

    # members

    async def join(self, name: str, *, host: str = "", broken: str = "", state_dir: str = "") -> Member:
        """Start a member; `host`: another name for its namespace (two may be the same agent)."""
        host = host or name
        if host not in self.wire.hosts:
            self.wire.add(host)
        command = [sys.executable, "-m", "tests.fault_lab.member", name, "--key", self._key(name)]
        command += ["--registry", f"http://{self._host}:{REGISTRY_PORT}"]
        command += ["--events", str(self.folder / f"{host}.events")]
        command += ["--state-dir", state_dir] * bool(state_dir) + ["--break", broken] * bool(broken)
        if state_dir:
            command = [w for w in command if w]
        member = self.members[host] = Member(await self._spawn(host, host, *command))
        member.name = host
        try:
            answer = json.loads(await member.line())
        except RuntimeError as exc:
            raise RuntimeError(f"{host} did not join: {exc}: {self.log(host)[-600:]}") from None
        assert answer == {"ok": name}, answer
        return member

    async def pair(self, **options: str) -> tuple[Member, Member]:
        """`a` and `b` with a channel between them, and a first message."""
        a, b = await self.join("a", **options), await self.join("b", **options)
        error = await a.do("connect", peer="b")
        if error:
            raise RuntimeError(f"a found no channel to b: {error}")
        await a.do("burst", to="b", count=1)
        await a.do("quiet")
        return a, b

    def log(self, host: str) -> str:
        """What it wrote to stderr."""
        return (self.folder / f"{host}.log").read_text(errors="replace")

    def healed(self) -> None:
        """From now on all should work again."""
        self.heals.append(time.monotonic())

    async def verdict(self, *, quiet_s: float = 60.0) -> Verdict:
        """End the loads, wait until all is settled, judge."""
        living = [m for m in self.members.values() if m.process.returncode is None]
        for member in living:
            await member.do("unload")
        for member in living:
            await member.do("quiet", timeout=quiet_s, wait_s=quiet_s + 30)
        await asyncio.sleep(0.3)
        return judge(read(self.folder), self.heals)


@contextlib.asynccontextmanager
async def flow(member: Member, to: str, rate: float = 30.0, **more: Any) -> AsyncIterator[None]:
    """Messages at a rate while the block runs."""
    await member.do("load", to=to, rate=rate, **more)
    yield
    await member.do("unload")
