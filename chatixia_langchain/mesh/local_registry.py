"""A registry of this machine for `LocalMesh`: the command line's own, as a child process, with keys made on demand.

- port, folder and keys are fresh and private; the folder (0700) is removed at the end
- the child ends with this process, however that ends: it watches a pipe on its stdin
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ..errors import LinkDown

READY_S = 30.0  # imports of the server framework on a slow, busy machine
STOP_S = 5.0
_URL = re.compile(r"listening on (http://\S+)")
_OURS = ("PATH", "HOME", "TMPDIR", "LANG", "PYTHONPATH", "VIRTUAL_ENV", "SYSTEMROOT")


class LocalRegistry:
    """One registry process. `url` is set once it listens. `port` 0: a free one."""

    def __init__(self, *, port: int = 0) -> None:
        self.url = ""
        self._port = port
        self._keys: dict[str, str] = {}  # by name
        self._folder: Path | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Process id of the registry."""
        if self._process is None:
            raise LinkDown("the local registry does not run")
        return self._process.pid

    async def start(self) -> None:
        """Start it (again, on the same port and with the same keys, after a death). Raises LinkDown with its stderr."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="chatixia-"))
            self.key("localmesh")  # a registry does not start without any key
        log = self._folder / "registry.log"
        command = [sys.executable, "-m", "chatixia_langchain.cli.registry", "--host", "127.0.0.1"]
        command += ["--port", str(self._port), "--api-keys", str(self._folder / "keys.json"), "--log-level", "warning"]
        with log.open("ab") as stderr:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                env=_env(os.environ),
            )
        try:
            async with asyncio.timeout(READY_S):
                self.url = await self._announced(self._process)
        except TimeoutError:
            await self.stop()
            raise LinkDown(f"the local registry did not listen within {READY_S:g} s{_tail(log)}") from None
        if not self.url:
            raise LinkDown(f"the local registry ended before it listened{_tail(log)}")
        self._port = int(self.url.rpartition(":")[2])

    async def _announced(self, process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None
        async for line in process.stdout:
            found = _URL.search(line.decode(errors="replace"))
            if found:
                return found[1]
        await process.wait()
        return ""

    def key(self, name: str) -> str:
        """The API key of `name`, made at the first call: the registry reads its file again when a key is new to it."""
        if name not in self._keys:
            if self._folder is None:
                raise LinkDown("the local registry does not run")
            self._keys[name] = f"ck_{secrets.token_urlsafe(32)}"
            entries = {key: {"peer_id": peer, "role": "agent"} for peer, key in self._keys.items()}
            path = self._folder / "keys.json"
            fresh = path.with_name("keys.new")
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump({"keys": entries}, file)
            fresh.replace(path)  # in one step: the registry never sees half a file
        return self._keys[name]

    async def stop(self) -> None:
        """Stop the process; keys and port stay, for another `start`. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def aclose(self) -> None:
        """Stop it and remove its folder. Idempotent."""
        try:
            await self.stop()
        finally:
            folder, self._folder = self._folder, None
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


def _env(env: Mapping[str, str]) -> dict[str, str]:
    """What the child needs of our environment: settings meant for another registry must not reach it."""
    return {name: env[name] for name in _OURS if name in env} | {"EXIT_ON_STDIN_EOF": "1"}


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()[-5:]
    except OSError:
        lines = []
    return ": " + " | ".join(lines) if lines else ""
