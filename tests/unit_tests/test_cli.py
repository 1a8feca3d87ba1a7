"""The command line: exit codes, messages for people, and `doctor` against real sockets."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from chatixia_langchain.cli import main as cli
from chatixia_langchain.cli import stun
from chatixia_langchain.errors import MeshError

CLEAN = {k: v for k, v in os.environ.items() if not k.startswith("CHATIXIA_")}


def command(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "chatixia_langchain", *argv],
        env=CLEAN | env, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip


@pytest.fixture
def fake_command(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A subcommand `fake` whose `run` the test sets."""
    fake = SimpleNamespace(HELP="for tests", add_arguments=lambda parser: None, run=lambda args: 0)
    monkeypatch.setitem(cli.COMMANDS, "fake", cli.Entry(".fake", "for tests", "registry"))
    monkeypatch.setitem(sys.modules, "chatixia_langchain.cli.fake", fake)
    return fake


def raising(error: BaseException) -> object:
    """A `run` that raises."""

    def run(args: object) -> int:
        raise error

    return run


def test_help_names_every_command_and_shows_examples() -> None:
    shown = command("--help")
    assert shown.returncode == 0
    assert [c for c in cli.COMMANDS if not re.search(rf"^ +{c} ", shown.stdout, re.MULTILINE)] == []
    assert "examples:" in shown.stdout


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_has_its_parts_and_help(name: str) -> None:
    module = cli.load(name)
    assert module.HELP
    shown = command(name, "--help")
    assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize("argv", [["frobnicate"], ["doctor", "--no-such-option"], []])
def test_wrong_usage_is_exit_code_2(argv: list[str]) -> None:
    assert command(*argv).returncode == 2


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (MeshError("the wire broke", code="link_down"), 1, "[link_down] the wire broke"),
        (ValueError("name '' is not a peer id"), 1, "name '' is not a peer id"),
        (OSError(13, "Permission denied"), 1, "Permission denied"),
        (ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn"), 1, "'chatixia-langchain[registry]'"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_are_one_line_and_a_code(
    fake_command: SimpleNamespace, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, says: str
) -> None:
    fake_command.run = raising(error)
    assert cli.main(["fake"]) == code
    shown = capsys.readouterr().err
    assert says in shown
    assert "Traceback" not in shown
    assert len(shown.splitlines()) == bool(says)


def test_debug_shows_the_traceback(fake_command: SimpleNamespace) -> None:
    fake_command.run = raising(ValueError("x"))
    with pytest.raises(ValueError, match="x"):
        cli.main(["--debug", "fake"])


def test_a_missing_module_of_ours_is_a_fault_and_not_an_extra(fake_command: SimpleNamespace) -> None:
    """`pip install` would not mend it."""
    fake_command.run = raising(ModuleNotFoundError("no", name="chatixia_langchain.nowhere"))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["fake"])


def test_version_as_json() -> None:
    facts = json.loads(command("version", "--json").stdout)
    assert set(facts) == {"chatixia-langchain", "protocol", "python", "sidecar"}
    assert facts["protocol"] == "1"


def doctor(*argv: str, **env: str) -> tuple[int, dict[str, dict[str, object]]]:
    """Exit code and findings by check."""
    done = command("doctor", "--json", *argv, **env)
    assert done.stdout, done.stderr
    findings = json.loads(done.stdout)["findings"]
    return done.returncode, {f["check"]: f for f in findings}


def test_doctor_refuses_a_named_binary_that_is_not_there() -> None:
    code, found = doctor(SIDECAR_BINARY="/nowhere/chatixia-sidecar")
    assert code == 1
    assert found["sidecar"]["ok"] is False
    assert "SIDECAR_BINARY" in str(found["sidecar"]["text"])


def test_doctor_refuses_a_sidecar_of_another_protocol(tmp_path: Path) -> None:
    other = tmp_path / "chatixia-sidecar"
    other.write_text("#!/bin/sh\necho 'chatixia-sidecar 9.0.0 (protocol 9)'\n")
    other.chmod(0o755)
    code, found = doctor(SIDECAR_BINARY=str(other))
    assert code == 1
    assert "protocol 9" in str(found["sidecar"]["text"])


def test_doctor_says_that_no_registry_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    code, found = doctor("--registry", f"http://127.0.0.1:{port}")
    assert code == 1
    assert "does not answer" in str(found["registry"]["text"])


@pytest.fixture
def stun_server() -> Iterator[int]:
    """A STUN server that answers binding requests; drops the first, as a network may. Its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(20)

        def serve() -> None:
            dropped = False
            while True:
                try:
                    asked, (ip, port) = sock.recvfrom(2048)
                except OSError:
                    return
                if not dropped:
                    dropped = True
                    continue
                address = struct.unpack("!I", socket.inet_aton(ip))[0] ^ stun.MAGIC
                other = struct.pack("!HH4s", 0x8022, 3, b"abc\0")  # SOFTWARE, padded: to be passed over
                mine = struct.pack("!HHBBHI", stun.XOR_MAPPED_ADDRESS, 8, 0, 1, port ^ (stun.MAGIC >> 16), address)
                head = struct.pack("!HHI", stun.BINDING_SUCCESS, len(other + mine), stun.MAGIC) + asked[8:20]
                sock.sendto(head + other + mine, (ip, port))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield sock.getsockname()[1]


def test_doctor_against_a_registry(tmp_path: Path, stun_server: int) -> None:
    """Reachable, clocks agree, key accepted, STUN answered; and a wrong key is named as such."""
    keys = tmp_path / "keys.json"
    key = "k-planner-0123456789abcdef"
    keys.write_text(json.dumps({"keys": {key: {"peer_id": "planner", "role": "agent"}}}))
    keys.chmod(0o600)
    argv = [sys.executable, "-m", "chatixia_langchain", "registry", "--port", "0", "--api-keys", str(keys)]
    argv += ["--ice-servers", f"stun:127.0.0.1:{stun_server}"]
    with subprocess.Popen(argv, env=CLEAN, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as registry:
        try:
            assert registry.stdout is not None
            url = registry.stdout.readline().split()[-1]
            code, found = doctor("--registry", url, CHATIXIA_API_KEY=key)
            assert [found[c]["ok"] for c in ("registry", "clock", "api key", "ice")] == [True] * 4
            assert "this agent is planner" in str(found["api key"]["text"])
            assert "sees this machine as 127.0.0.1:" in str(found["ice"]["text"])
            code, found = doctor("--registry", url, CHATIXIA_API_KEY="k-wrong-0123456789abcdef")
            assert (code, found["api key"]["ok"]) == (1, False)
        finally:
            registry.terminate()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("stun:stun.example", ("stun.example", 3478)),
        ("stun:stun.example:19302", ("stun.example", 19302)),
        ("stun:[2001:db8::1]:3478", ("2001:db8::1", 3478)),
    ],
)
def test_addresses_of_stun_urls(url: str, address: tuple[str, int]) -> None:
    assert stun.address_of(url) == address


@pytest.mark.parametrize("answer", [b"", b"\x01\x01", bytes(20), b"\xff" * 64])
def test_garbage_is_no_stun_answer(answer: bytes) -> None:
    assert stun.mapped_address(answer, b"t" * 12) is None
