"""A registry and sidecars started by hand, as a reader of the README would, and a person typing lines into socat."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ...support import sidecar_binary

KEYS = {
    "peer-abc": "k-abc-0123456789abcdef",
    "peer-xyz": "k-xyz-0123456789abcdef",
    "peer-new": "k-new-0123456789abcdef",
}


class Typist:
    """One person at one socat: types lines, reads lines."""

    def __init__(self, socket: Path) -> None:
        self._proc = subprocess.Popen(
            ["socat", "-t1", "-", f"UNIX-CONNECT:{socket}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._tail = b""

    def type(self, line: str | bytes) -> None:
        """Type one line and press return."""
        assert self._proc.stdin is not None
        data = line.encode() if isinstance(line, str) else line
        self._proc.stdin.write(data + b"\n")
        self._proc.stdin.flush()

    def read(self, timeout_s: float = 30.0) -> str:
        """The next line, without its end."""
        assert self._proc.stdout is not None
        until = time.monotonic() + timeout_s
        while b"\n" not in self._tail:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._proc.stdout], [], [], left)[0]:
                raise TimeoutError(f"no line within {timeout_s} s; half a line: {self._tail[:200]!r}")
            more = os.read(self._proc.stdout.fileno(), 1 << 16)
            if not more:
                raise EOFError("the sidecar closed the connection")
            self._tail += more
        line, self._tail = self._tail.split(b"\n", 1)
        return line.decode()

    def leave(self) -> None:
        """Close the terminal."""
        self._proc.kill()
        self._proc.wait()
        for pipe in (self._proc.stdin, self._proc.stdout):
            if pipe is not None:
                pipe.close()


class Machine:
    """What one person started on one machine; `down` ends all of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.procs, self.typists, self.url = folder, {}, [], ""  # type: ignore[var-annotated]
        self.keys = folder / "keys.json"
        self.keys.write_text(json.dumps({"keys": {k: {"peer_id": n, "role": "agent"} for n, k in KEYS.items()}}))
        self.keys.chmod(0o600)

    def start_registry(self, port: int = 0) -> str:
        """Start the registry by its command line; returns the URL it printed."""
        proc = subprocess.Popen(
            [sys.executable, "-m", "chatixia_langchain", "registry", "--port", str(port), "--api-keys", str(self.keys)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
        )
        self.procs["registry"] = proc
        assert proc.stdout is not None
        line = proc.stdout.readline().decode()
        assert "listening on http://" in line, f"the registry said {line!r}"
        self.url = line.split()[-1]
        return self.url

    def start_sidecar(self, name: str) -> Path:
        """Start a sidecar by its environment alone; returns its socket."""
        socket = self.folder / f"{name}.sock"
        env = {
            "PATH": os.environ["PATH"],
            "IPC_SOCKET": str(socket),
            "SIGNALING_URL": self.url.replace("http", "ws") + "/ws",
            "TOKEN_URL": self.url + "/api/token",
            "API_KEY": KEYS[name],
            "RUST_LOG": "warn",
        }
        log = (self.folder / f"{name}.log").open("wb")
        self.procs[name] = subprocess.Popen([sidecar_binary()], env=env, stderr=log)
        log.close()
        until = time.monotonic() + 30
        while not socket.exists():
            assert time.monotonic() < until, (self.folder / f"{name}.log").read_text()
            time.sleep(0.01)
        return socket

    def typist(self, name: str) -> Typist:
        """Sit down at the sidecar called `name`."""
        t = Typist(self.folder / f"{name}.sock")
        self.typists.append(t)
        return t

    def down(self) -> None:
        """End everything that was started."""
        for t in self.typists:
            t.leave()
        for p in self.procs.values():
            p.kill()
            p.wait()
            if p.stdout:
                p.stdout.close()


@pytest.fixture
def machine() -> Iterator[Machine]:
    sidecar_binary()
    if not shutil.which("socat"):
        pytest.skip("socat is not installed")
    folder = Path(tempfile.mkdtemp(prefix="cx-"))  # short: a Unix socket's path has at most 107 bytes
    m = Machine(folder)
    try:
        yield m
    finally:
        m.down()
        shutil.rmtree(folder, ignore_errors=True)


def until(what: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait for `what` to become true, or fail."""
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.05)
