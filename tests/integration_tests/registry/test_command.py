"""The command in a process of its own: its one line, its refusals, its end, and what a restart remembers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

ROOT = Path(__file__).parents[3]
END_S = 5.0  # an end takes well under 2 s; more only where the machine is busy


class Command:
    """Runs of `python -m chatixia_langchain.cli.registry`, all ended at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.running = folder, list[subprocess.Popen[str]]()

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """Start it; stdout is a pipe, stderr goes to `log`."""
        clean = {k: v for k, v in os.environ.items() if k not in ("PORT", "API_KEYS_FILE", "ICE_SERVERS", "TURN_URL")}
        with (self.folder / "log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "chatixia_langchain.cli.registry", *arguments],
                cwd=self.folder,
                env={**clean, "PYTHONPATH": str(ROOT), **env},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.running.append(process)
        return process

    def serve(self, *arguments: str, **env: str) -> tuple[subprocess.Popen[str], str]:
        """Start it with a key file for a and b; returns it and its URL."""
        if not (self.folder / "keys.json").exists():
            assert self.finish("init", "--api-keys", "keys.json", "--peer", "a", "--peer", "b")[0] == 0
        process = self.start("--port", "0", "--api-keys", "keys.json", *arguments, **env)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("chatixia-langchain registry listening on http://127.0.0.1:"), (line, self.log())
        return process, line.split()[-1]

    def finish(self, *arguments: str, **env: str) -> tuple[int, str]:
        """Run it to its end; returns the exit code and its stdout."""
        process = self.start(*arguments, **env)
        out, _ = process.communicate(timeout=30)
        return process.returncode, out

    def key(self, peer: str) -> dict[str, str]:
        """The header of `peer`."""
        return {"x-api-key": (self.folder / f"{peer}.key").read_text().strip()}

    def log(self) -> str:
        """All of stderr so far."""
        return (self.folder / "log").read_text()

    def close(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    made = Command(tmp_path)
    yield made
    made.close()


def http(url: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=url, timeout=40, trust_env=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_ends_cleanly_with_sockets_and_polls_open(command: Command, number: signal.Signals) -> None:
    """Waiting polls are answered, sockets are told why, the exit code is 0, and stdout held one line."""
    process, url = command.serve()
    async with http(url) as client:
        token = (await client.post("/api/token", headers=command.key("a"))).json()["token"]
        socket = await connect(
            url.replace("http", "ws") + "/ws", additional_headers={"Authorization": f"Bearer {token}"}, proxy=None
        )
        await socket.send('{"type":"register","peer_id":"a","payload":null}')
        await socket.recv()
        body = {"agent_id": "a", "wait_s": 30}
        poll = asyncio.create_task(client.post("/api/hub/claim", json=body, headers=command.key("a")))
        await asyncio.sleep(0.5)
        process.send_signal(number)
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(socket.recv(), 20)
        assert socket.close_code == 1012
        assert await asyncio.to_thread(process.wait, END_S) == 0
        assert (await poll).json() == {"tasks": []}
    assert process.stdout is not None
    assert process.stdout.read() == ""
    assert "Traceback" not in command.log()


async def test_secrets_stay_out_of_the_log(command: Command) -> None:
    """Keys, tokens (in the query, too) and payloads are in no line of the log, at any level."""
    _, url = command.serve("--allow-query-token", "--log-level", "debug")
    async with http(url) as client:
        headers = command.key("a")
        token = (await client.post("/api/token", headers=headers)).json()["token"]
        async with connect(f"{url.replace('http', 'ws')}/ws?token={token}", proxy=None) as socket:
            await socket.send('{"type":"register","peer_id":"a","payload":null}')
            await socket.recv()
            task = {"target_agent_id": "a", "payload": {"x": "very-private"}}
            assert (await client.post("/api/hub/tasks", json=task, headers=headers)).status_code == 200
    log = command.log()
    assert "peer=a" in log
    assert "submitted" in log
    for secret in (token, token.split(".")[2], headers["x-api-key"], "very-private"):
        assert secret not in log


@pytest.mark.parametrize(
    ("content", "fault"),
    [(None, "does not exist"), ("{", "is not JSON"), ('{"keys": {}}', "holds no key"), ("[]", "must look like")],
)
def test_no_key_file_no_registry(command: Command, content: str | None, fault: str) -> None:
    """H-3: exit 2, naming the fault and the way out; nothing listens and no key is made up."""
    if content is not None:
        (command.folder / "k.json").write_text(content)
    code, out = command.finish("--port", "0", API_KEYS_FILE="k.json")
    assert (code, out) == (2, "")
    assert fault in command.log()
    assert "k.json" in command.log()
    assert "Traceback" not in command.log()


def test_wrong_settings_exit_2_and_a_taken_port_1(command: Command) -> None:
    _, url = command.serve()
    port = url.rsplit(":", 1)[1]
    keys = ("--api-keys", "keys.json")
    assert command.finish(*keys, PORT="x")[0] == 2
    assert command.finish(*keys, "--ice-servers", "nonsense")[0] == 2
    assert command.finish(*keys, "--db", "/nonexistent/x.db", "--port", "0")[0] == 2
    assert command.finish(*keys, PORT=port)[0] == 1
    log = command.log()
    for said in ("PORT 'x'", "ICE server 'nonsense'", "database /nonexistent/x.db", f"127.0.0.1:{port}"):
        assert said in log
    assert "Traceback" not in log


def test_help_has_examples(command: Command) -> None:
    code, out = command.finish("--help")
    assert code == 0
    assert "chatixia-langchain registry init --peer planner" in out


def test_init_prints_no_key(command: Command) -> None:
    code, out = command.finish("init", "--api-keys", "keys.json", "--peer", "a")
    assert code == 0
    assert "a (agent), admin (admin)" in out
    assert command.key("a")["x-api-key"] not in out + command.log()
    assert command.finish("init", "--api-keys", "keys.json", "--peer", "a")[0] == 2


def test_ends_with_the_process_that_started_it(command: Command) -> None:
    """kill -9 of the parent closes the pipe: no registry is left behind."""
    command.finish("init", "--api-keys", "keys.json", "--peer", "a")
    script = (
        "import os, subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-m', 'chatixia_langchain.cli.registry', '--port', '0', '--api-keys',"
        " 'keys.json'], stdin=subprocess.PIPE)\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "EXIT_ON_STDIN_EOF": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=command.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert b"listening" in parent.stdout.readline()
        parent.kill()
        parent.wait()
        assert parent.stdout.read() == b"", "the pipe ends when the registry, its last writer, has ended"
        assert not Path(f"/proc/{pid}/exe").exists()


async def test_killed_registry_remembers_with_a_database(command: Command) -> None:
    """kill -9, then a new process on the same file: agents, tasks, leases and idempotency are there."""
    process, url = command.serve("--db", "r.db")
    body: dict[str, Any] = {"target_agent_id": "b", "payload": {"n": 1}, "id": "msg-1"}
    async with http(url) as client:
        task_id = (await client.post("/api/hub/tasks", json=body, headers=command.key("a"))).json()["task_id"]
        await client.post("/api/registry/agents", json={"agent_id": "b"}, headers=command.key("b"))
        process.kill()
        process.wait()
    _, url = command.serve("--db", "r.db")
    async with http(url) as client:
        again = await client.post("/api/hub/tasks", json=body, headers=command.key("a"))
        assert again.json()["task_id"] == task_id
        assert [r["agent_id"] for r in (await client.get("/api/registry/agents", headers=command.key("a"))).json()] == [
            "b"
        ]
        claimed = await client.post("/api/hub/claim", json={"agent_id": "b"}, headers=command.key("b"))
        assert [(t["id"], t["payload"]) for t in claimed.json()["tasks"]] == [(task_id, {"n": 1})]


async def test_tokens_of_another_start_are_refused(command: Command) -> None:
    """The signing secret is random per start, unless one is configured."""
    for env, status in (({}, 401), ({"REGISTRY_SECRET": "x" * 40}, 200)):
        first, url = command.serve(**env)
        async with http(url) as client:
            token = (await client.post("/api/token", headers=command.key("a"))).json()["token"]
        first.terminate()
        assert first.wait(END_S) == 0
        _, url = command.serve(**env)
        async with http(url) as client:
            answer = await client.get("/api/config", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == status
