"""The sidecar transport against a real process that speaks IPC and can be told to misbehave."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chatixia_langchain.config import MeshConfig
from chatixia_langchain.errors import (
    Busy,
    InvalidLine,
    LinkDown,
    MessageTooBig,
    PeerUnreachable,
    ProtocolMismatch,
    RegistryRefused,
    SidecarFailed,
)
from chatixia_langchain.transport import process
from chatixia_langchain.transport.base import LinkState, PeerDown, PeerJoined, PeerUp, Received, TransportEvent
from chatixia_langchain.transport.sidecar import SidecarTransport

FAKE = Path(__file__).with_name("fake_sidecar.py")


@pytest.fixture
def binary(tmp_path: Path) -> str:
    script = tmp_path / "fake-sidecar"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
    script.chmod(0o755)
    return str(script)


def make(binary: str, mode: str = "", **more: object) -> SidecarTransport:
    settings: dict[str, object] = {"connect_timeout_s": 1.0, "extra_env": {"FAKE_MODE": mode}} | more
    return SidecarTransport(
        MeshConfig.make(
            "me", registry="http://127.0.0.1:9", api_key="k-secret", env={}, sidecar_binary=binary, **settings
        )
    )


async def until(what: Callable[[], bool], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not what():
            await asyncio.sleep(0.005)


def bodies(events: list[TransportEvent]) -> list[bytes]:
    return [e.body for e in events if isinstance(e, Received)]


async def test_messages_go_there_and_back_byte_exact(binary: str) -> None:
    events: list[TransportEvent] = []
    t = make(binary)
    info = await t.start(events.append)
    assert (info.peer_id, info.version, info.fingerprint) == ("me", "9", "sha-256 AB")
    await t.connect("echo")
    sent = [b'{"n":%d,"t":"%s"}' % (n, '\u00e4\U0001f600}},\\"'.encode()) for n in range(100)] + [
        b'{"x":"' + b"y" * 200_000 + b'"}'
    ]
    for body in sent:
        try:
            t.send("echo", body)
        except Busy:
            await t.writable("echo")
            t.send("echo", body)
    await until(lambda: len(bodies(events)) == len(sent))
    assert bodies(events) == sent
    assert [e for e in events if isinstance(e, PeerUp)] == [PeerUp("echo", 7, 1, 262144, "sha-256 CD", "host/srflx")]
    assert events[0] == LinkState(True, peer_id="me")
    assert PeerJoined("echo", "sha-256 CD", 1) in events
    await t.aclose()
    await t.aclose()
    count = len(events)
    await asyncio.sleep(0.05)
    assert len(events) == count


async def test_concurrent_connects_share_one_dial_and_cancelling_is_safe(binary: str) -> None:
    events: list[TransportEvent] = []
    t = make(binary)
    await t.start(events.append)
    first = asyncio.create_task(t.connect("echo"))
    rest = [asyncio.create_task(t.connect("echo")) for _ in range(5)]
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.gather(*rest)
    assert sum(isinstance(e, PeerUp) for e in events) == 1
    await t.aclose()


async def test_refusals_name_what_is_wrong(binary: str) -> None:
    t = make(binary)
    await t.start(lambda e: None)
    with pytest.raises(PeerUnreachable, match="not online"):
        await t.connect("nobody")
    with pytest.raises(PeerUnreachable):
        t.send("nobody", b"{}")
    await t.connect("echo")
    with pytest.raises(MessageTooBig) as big:
        t.send("echo", b'{"x":"' + b"y" * 262_144 + b'"}')
    assert big.value.limit == 262_144
    for forged in (b'{}}}\n{"type":"send"}', b'{"a":1}\r', b"[]", b""):
        with pytest.raises(InvalidLine):
            t.send("echo", forged)
    await t.disconnect("echo")
    with pytest.raises(PeerUnreachable):
        t.send("echo", b"{}")
    await t.aclose()
    with pytest.raises(LinkDown):
        t.send("echo", b"{}")


async def test_full_window_is_busy_until_answers_come(binary: str) -> None:
    t = make(binary, "hold")
    await t.start(lambda e: None)
    await t.connect("echo")
    body = b'{"x":"' + b"y" * 90_000 + b'"}'
    for _ in range(3):
        t.send("echo", body)
    with pytest.raises(Busy):
        t.send("echo", body)
    await asyncio.wait_for(t.writable("echo"), 5)
    t.send("echo", body)
    await t.aclose()


async def test_secrets_travel_by_environment_and_ours_stays_here(binary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_PARENT", "must not leak")
    t = make(binary)
    await t.start(lambda e: None)
    status = await t.status()
    assert "k-secret" not in str(status["argv"])
    assert status["env"] == {
        "PEER_ID": "me",
        "SIGNALING_URL": "ws://127.0.0.1:9/ws",
        "TOKEN_URL": "http://127.0.0.1:9/api/token",
        "DIAL": "on_demand",
        "SECRET_OF_PARENT": "",
    }
    assert status["peers"]["echo"]["path"] == "host/host"
    folder = Path(t._process.socket).parent  # type: ignore[union-attr]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    await t.aclose()
    assert not folder.exists()


async def test_killed_sidecar_is_replaced_and_the_transport_stays_valid(binary: str) -> None:
    events: list[TransportEvent] = []
    t = make(binary)
    await t.start(events.append)
    await t.connect("echo")
    pid = t.sidecar_pid
    mark = len(events)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: LinkState in map(type, events[mark:]))
    down = [e for e in events[mark:] if isinstance(e, PeerDown | LinkState)]
    assert isinstance(down[0], PeerDown)
    assert down[0].generation == 7
    assert isinstance(down[1], LinkState)
    assert not down[1].up
    with pytest.raises(LinkDown):
        t.send("echo", b"{}")
    await until(lambda: LinkState(True, peer_id="me") in events[mark:])
    assert t.sidecar_pid not in (0, pid)
    await t.connect("echo")
    t.send("echo", b'{"again":1}')
    await until(lambda: b'{"again":1}' in bodies(events))
    assert (await t.status())["restarts"] == 1
    await t.aclose()


async def test_a_dial_hears_at_once_that_the_sidecar_died(binary: str) -> None:
    t = make(binary)
    await t.start(lambda e: None)
    dial = asyncio.create_task(t.connect("echo", timeout_s=30))
    await asyncio.sleep(0)
    os.kill(t.sidecar_pid, signal.SIGKILL)
    with pytest.raises(LinkDown):
        await asyncio.wait_for(dial, 5)
    await t.aclose()


async def test_repeated_deaths_are_told_as_an_error(
    binary: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("chatixia_langchain.transport.sidecar.PAUSE_MAX_S", 0.1)
    events: list[TransportEvent] = []
    t = make(binary)
    await t.start(events.append)
    for deaths in range(1, 6):
        await t.connect("echo")
        t.send("echo", b'{"die":1}')
        await until(lambda n=deaths: sum(e == LinkState(True, peer_id="me") for e in events) == n + 1)  # type: ignore[misc]
    told = [r.message for r in caplog.records if r.levelname == "ERROR"]
    assert any("ended 5 times" in m and "told to die" in m for m in told)
    await t.aclose()


@pytest.mark.parametrize(
    ("mode", "error", "text"),
    [
        ("crash", SidecarFailed, "ended with code 7(.|\n)*cannot start: no luck"),
        ("mismatch", ProtocolMismatch, "protocol 2"),
        ("refused", RegistryRefused, "bad key"),
        ("silent", LinkDown, "did not answer within 1 s"),
        ("never", SidecarFailed, "not ready within 0.3 s"),
    ],
)
async def test_failed_start_says_why_and_leaves_nothing(
    binary: str, mode: str, error: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "READY_S", 0.3 if mode == "never" else 5.0)
    events: list[TransportEvent] = []
    t = make(binary, mode)
    with pytest.raises(error, match=text):
        await t.start(events.append)
    assert t.sidecar_pid == 0
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    await t.aclose()


async def test_attaches_to_a_running_sidecar_and_to_its_successor(binary: str, tmp_path: Path) -> None:
    socket = str(tmp_path / "s.sock")

    async def run() -> asyncio.subprocess.Process:
        proc = await asyncio.create_subprocess_exec(
            binary, env={"IPC_SOCKET": socket, "PEER_ID": "me"}, stdin=asyncio.subprocess.DEVNULL
        )
        await until(lambda: os.path.exists(socket))
        return proc

    first = await run()
    events: list[TransportEvent] = []
    t = make("", sidecar_socket=socket)
    await t.start(events.append)
    second_client = make("", sidecar_socket=socket)
    with pytest.raises(LinkDown, match="another client is attached"):
        await second_client.start(lambda e: None)
    first.kill()
    await first.wait()
    os.unlink(socket)
    await until(lambda: any(isinstance(e, LinkState) and not e.up for e in events))
    second = await run()
    await until(lambda: sum(e == LinkState(True, peer_id="me") for e in events) == 2)
    await t.connect("echo")
    await t.aclose()
    assert second.returncode is None, "a sidecar that somebody else runs is left alone"
    second.kill()
    await second.wait()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's: `tmp_path` is longer than that beside other workers."""
    with tempfile.TemporaryDirectory(prefix="swept-", dir="/tmp") as folder:
        yield Path(folder)


async def test_folders_of_killed_agents_are_swept_and_no_others(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process.tempfile, "tempdir", str(short_path))
    names = ("chatixia-ipc-a", "chatixia-ipc-b", "chatixia-ipc-c", "other")
    old, used, young, foreign = (short_path / n for n in names)
    for folder in (old, used, young, foreign):
        folder.mkdir()
    (used / "ipc.sock").touch()
    for folder in (old, used, foreign):
        os.utime(folder, (1, 1))
    own = process.SidecarProcess("/bin/true", {})
    assert not old.exists()
    assert all(f.exists() for f in (used, young, foreign, Path(own.socket).parent))
    await own.aclose()


async def test_works_on_a_loop_of_another_thread(binary: str) -> None:
    def main() -> str:
        async def go() -> str:
            t = make(binary)
            info = await t.start(lambda e: None)
            await t.connect("echo")
            await t.aclose()
            return info.peer_id

        return asyncio.run(go())

    assert await asyncio.to_thread(main) == "me"


async def test_it_ends_with_its_parent(binary: str) -> None:
    """A parent that dies without a word (kill -9) closes the pipe that the sidecar reads."""
    code = (
        "import asyncio, sys\n"
        "from chatixia_langchain.config import MeshConfig\n"
        "from chatixia_langchain.transport.sidecar import SidecarTransport\n"
        "async def main():\n"
        f"    t = SidecarTransport(MeshConfig.make('me', registry='http://127.0.0.1:9', sidecar_binary={binary!r}))\n"
        "    await t.start(lambda e: None)\n"
        "    print(t.sidecar_pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    assert parent.stdout is not None
    pid = int(await asyncio.wait_for(parent.stdout.readline(), 10))
    os.kill(pid, 0)
    parent.kill()
    await parent.wait()

    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    await until(gone)
