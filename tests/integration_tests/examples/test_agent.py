"""`examples/agent.py`, as the README and compose.yaml start it: two processes, a registry, an answer over WebRTC."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ...support import ROOT, sidecar_binary

KEYS = {name: f"k-{name}-0123456789abcdef" for name in ("planner", "researcher")}
HIDDEN = ("CHATIXIA_", "OPENAI_", "SIDECAR_BINARY")
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(HIDDEN)} | {"PYTHONUNBUFFERED": "1"}


@contextmanager
def running(*argv: object, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A program, interrupted at the end as by Ctrl-C."""
    whole = CLEAN | env
    with subprocess.Popen([str(a) for a in argv], env=whole, stdout=subprocess.PIPE, text=True) as process:
        # A test that waits for a line must end all the same: the pipe closes with the process.
        watchdog = threading.Timer(40, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
            watchdog.cancel()


def line_with(process: subprocess.Popen[str], words: str) -> str:
    """The next line of its output that holds `words`."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if words in line:
            return line
    raise AssertionError(f"ended without {words!r}: {seen}")


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """A registry that knows both agents; its URL."""
    keys = folder / "keys.json"
    keys.write_text(json.dumps({"keys": {key: {"peer_id": name, "role": "agent"} for name, key in KEYS.items()}}))
    keys.chmod(0o600)
    command = (sys.executable, "-m", "chatixia_langchain", "registry", "--port", 0, "--api-keys", keys)
    with running(*command) as process:
        yield line_with(process, "listening").split()[-1]


def settings(url: str, name: str, folder: Path) -> dict[str, str]:
    """The environment of one agent, its key in a file."""
    key = folder / f"{name}.key"
    key.write_text(KEYS[name])
    return {"CHATIXIA_REGISTRY_URL": url, "CHATIXIA_API_KEY_FILE": str(key)}


@pytest.mark.sidecar
@pytest.mark.parametrize("transport", ["sidecar", "aiortc"])
def test_two_agents_talk(tmp_path: Path, transport: str) -> None:
    more = {"CHATIXIA_TRANSPORT": transport}
    if transport == "sidecar":
        more["SIDECAR_BINARY"] = sidecar_binary()
    with ExitStack() as stack:
        url = stack.enter_context(registry(tmp_path))
        program = (sys.executable, ROOT / "examples/agent.py")
        answers = stack.enter_context(running(*program, "researcher", **settings(url, "researcher", tmp_path), **more))
        line_with(answers, f"is in the mesh, by {transport}")
        asks = running(*program, "planner", "--ask", "researcher", **settings(url, "planner", tmp_path), **more)
        planner = stack.enter_context(asks)
        assert line_with(planner, "answers") == "researcher answers over channel: researcher heard: question 1\n"
        assert line_with(answers, "asks") == "planner asks: question 1\n"
    assert (answers.returncode, planner.returncode) == (0, 0)


@pytest.mark.sidecar
def test_an_agent_attaches_to_a_sidecar_that_runs(tmp_path: Path) -> None:
    """As in compose.yaml: the sidecars are started by somebody else, agent and sidecar share the socket."""
    with ExitStack() as stack:
        url = stack.enter_context(registry(tmp_path))
        agents = {}
        for name in KEYS:
            env = settings(url, name, tmp_path)
            ipc = tmp_path / f"{name}.sock"
            sidecar_env = {
                "IPC_SOCKET": str(ipc),
                "SIGNALING_URL": f"ws{url.removeprefix('http')}/ws",
                "TOKEN_URL": f"{url}/api/token",
                "API_KEY_FILE": env["CHATIXIA_API_KEY_FILE"],
            }
            stack.enter_context(running(sidecar_binary(), **sidecar_env))
            while not ipc.exists():
                threading.Event().wait(0.02)
            ask = ("--ask", "researcher") if name == "planner" else ()
            command = (sys.executable, ROOT / "examples/agent.py", name, "--sidecar-socket", ipc, *ask)
            agents[name] = stack.enter_context(running(*command, **env))
        assert "over channel" in line_with(agents["planner"], "answers")
