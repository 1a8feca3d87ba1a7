"""The sidecar as a process: find its binary, start it, watch it, stop it.

- `find_sidecar` says which binary: explicit path, `SIDECAR_BINARY`, PATH, this environment's scripts folder;
- `SidecarProcess.start(connect)` spawns it and returns what `connect(socket)` returned once the socket answers;
- it ends with its parent: it reads a pipe that only we hold, and ends when that closes, however we die.

Works on any asyncio loop in any thread: a plain `Popen`, its stderr read by the loop, its end seen by polling.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeVar

from ..errors import SidecarFailed, SidecarNotFound

logger = logging.getLogger(__name__)
T = TypeVar("T")

NAME = "chatixia-sidecar"
READY_S = 5.0
STOP_S = 5.0
SOCKET_PATH_MAX = 100  # the kernel takes 107 bytes on Linux, 103 on macOS
FOLDER = "chatixia-ipc-"
STALE_S = 60.0  # an empty folder that old belongs to nobody: a sidecar binds its socket within READY_S
STDERR_LINES = 50  # kept for the error text; older lines fall out, all go to the log at DEBUG
STDERR_LINE_BYTES = 2_000


def find_sidecar(path: str | os.PathLike[str] | None = None, *, env: Mapping[str, str] | None = None) -> str:
    """The absolute path of the sidecar binary.

    Raises SidecarNotFound with instructions; a path that was named but is wrong is an error, never a fall-through.
    """
    env = os.environ if env is None else env
    for source, given in (("sidecar_binary", path), ("SIDECAR_BINARY", env.get("SIDECAR_BINARY"))):
        if given:
            found = shutil.which(str(Path(given).expanduser()))  # checks the executable bit
            if found:
                return str(Path(found).absolute())
            raise SidecarNotFound(f"{source} names {str(given)!r}, which is not an executable file")
    if found := shutil.which(NAME, path=env.get("PATH")):
        return str(Path(found).absolute())
    # `.venv/bin/python app.py` without activation: PATH lacks the scripts folder.
    folders = [
        sysconfig.get_path("scripts"),
        sysconfig.get_path("scripts", scheme=sysconfig.get_preferred_scheme("user")),
    ]
    for folder in folders:
        if found := shutil.which(NAME, path=folder):
            return found
    looked = "\n".join(f"  - {d}" for d in ["every folder on PATH", *folders])
    raise SidecarNotFound(
        f"cannot find the {NAME} binary. Looked in:\n{looked}\n"
        "Get it in one of these ways:\n"
        "  - pip install --upgrade chatixia-langchain         (wheels for common platforms carry it)\n"
        f"  - cargo build --release, in sidecar-rs of a clone  (then SIDECAR_BINARY=.../target/release/{NAME})\n"
        f"  - set SIDECAR_BINARY=/path/to/{NAME}\n"
        "Or do without it: pip install 'chatixia-langchain[aiortc]' and transport='aiortc'."
    )


def _sweep(base: Path) -> None:
    """Remove the folders of agents that were killed; their sidecars took the sockets away. Only empty ones of ours."""
    for folder in base.glob(f"{FOLDER}*"):
        with contextlib.suppress(OSError):  # not empty, not ours, or somebody else was faster
            if time.time() - folder.stat().st_mtime > STALE_S:
                folder.rmdir()


class _Stderr(asyncio.Protocol):
    """Reads the sidecar's stderr as it comes, so that it never blocks on a full pipe; keeps the end of it."""

    def __init__(self, lines: deque[str]) -> None:
        self._lines, self._tail = lines, b""

    def data_received(self, data: bytes) -> None:
        *whole, self._tail = (self._tail + data).split(b"\n")
        self._tail = self._tail[-STDERR_LINE_BYTES:]
        for raw in whole:
            self._add(raw)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._tail:
            self._add(self._tail)
            self._tail = b""

    def _add(self, raw: bytes) -> None:
        line = raw[:STDERR_LINE_BYTES].decode("utf-8", "replace").rstrip()
        self._lines.append(line)
        logger.debug("sidecar: %s", line)


class SidecarProcess:
    """One sidecar process and its private folder. Not restarted by itself: make a new start after a death.

    `env` is the sidecar's whole environment but for `IPC_SOCKET` and what ties it to this process. Secrets travel
    there, never in argv.
    """

    def __init__(self, binary: str, env: Mapping[str, str]) -> None:
        self._binary, self._env = binary, dict(env)
        base = None if len(tempfile.gettempdir()) < SOCKET_PATH_MAX - 30 else "/tmp"  # noqa: S108  (mkdtemp makes a private one in it)
        # 0700: nobody else can reach the socket. Removed by aclose(), or with this object.
        self._folder = tempfile.TemporaryDirectory(prefix=FOLDER, dir=base, ignore_cleanup_errors=True)
        _sweep(Path(self._folder.name).parent)
        self.socket = os.path.join(self._folder.name, "ipc.sock")
        self._proc: subprocess.Popen[bytes] | None = None
        self._stderr: asyncio.ReadTransport | None = None
        self._lines: deque[str] = deque(maxlen=STDERR_LINES)

    @property
    def pid(self) -> int:
        """Process id, 0 when none was started."""
        return self._proc.pid if self._proc else 0

    def stderr_tail(self, lines: int = 15) -> str:
        """The end of what it wrote to stderr."""
        return "\n".join(list(self._lines)[-lines:])

    async def start(self, connect: Callable[[str], Awaitable[T]]) -> T:
        """Spawn, then call `connect(socket)` until it returns; OSError from it means: not ready yet.

        Raises SidecarFailed, with the end of its stderr, when it ends early or is not ready within 5 s.
        """
        self._lines.clear()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket)  # a killed one leaves it behind
        try:
            self._proc = subprocess.Popen(  # noqa: ASYNC220  (a few ms; asyncio's would need a child watcher)
                [self._binary],
                env={**self._env, "IPC_SOCKET": self.socket, "EXIT_ON_STDIN_EOF": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd=self._folder.name,
                start_new_session=True,  # a Ctrl-C in the terminal is for the agent, which stops the sidecar in order
            )
        except OSError as exc:
            raise SidecarFailed(f"cannot run {self._binary}: {exc.strerror or exc}") from exc
        try:
            self._stderr, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: _Stderr(self._lines), self._proc.stderr
            )
            return await self._ready(connect)
        except BaseException:
            await self.stop(grace_s=0.0)
            raise

    async def _ready(self, connect: Callable[[str], Awaitable[T]]) -> T:
        began = time.monotonic()
        while True:
            if self.ended():
                await asyncio.sleep(0.02)  # its last words may still be in the pipe
                assert self._proc is not None
                raise SidecarFailed(
                    f"the sidecar {self._binary} ended with code {self._proc.returncode}:\n{self.stderr_tail()}"
                )
            with contextlib.suppress(OSError):
                if os.path.exists(self.socket):  # noqa: ASYNC240
                    return await connect(self.socket)
            waited = time.monotonic() - began
            if waited > READY_S:
                raise SidecarFailed(
                    f"the sidecar {self._binary} was not ready within {READY_S:g} s:\n{self.stderr_tail()}"
                )
            await asyncio.sleep(0.005 if waited < 0.25 else 0.1)  # it is usually ready within 30 ms

    def ended(self) -> bool:
        """True when there is no living process."""
        return self._proc is None or self._proc.poll() is not None

    async def stop(self, grace_s: float = STOP_S) -> None:
        """Ask it to end, wait `grace_s`, kill it; the folder stays for another start. Idempotent."""
        proc, self._proc = self._proc, None
        if proc is not None:
            try:
                if proc.stdin:
                    proc.stdin.close()
                if proc.poll() is None:
                    proc.terminate()
                until = time.monotonic() + grace_s
                while proc.poll() is None and time.monotonic() < until:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            finally:  # also when we are cancelled while waiting
                if proc.poll() is None:
                    proc.kill()
                    proc.wait()
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None

    async def aclose(self) -> None:
        """Stop it and remove its folder. Idempotent."""
        try:
            await self.stop()
        finally:
            self._folder.cleanup()
