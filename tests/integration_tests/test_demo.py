"""The demo as a stranger runs it: real processes, real sidecars where the binary is; what it says and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from chatixia_langchain.cli.demo_script import rule
from chatixia_langchain.testing import OpenAIServer
from chatixia_langchain.transport.process import find_sidecar

from ..support import sidecar_binary

pytestmark = pytest.mark.timeout(180)
OPENAI = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL")


def command(*args: str, **env: str) -> tuple[list[str], dict[str, str]]:
    ours = (*OPENAI, "SIDECAR_BINARY")  # `./dev test` sets it
    clean = {k: v for k, v in os.environ.items() if k not in ours and not k.startswith("CHATIXIA_")}
    return [sys.executable, "-m", "chatixia_langchain", "demo", *args], clean | env


def demo(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    argv, environment = command(*args, **env)
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=170, check=False)


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.sidecar
def test_three_agents_three_sidecars_all_answers_over_webrtc() -> None:
    done = demo("--json", SIDECAR_BINARY=sidecar_binary())
    assert (done.returncode, done.stderr) == (0, "")
    told = result(done)
    assert told["ok"]
    assert told["transport"] == "sidecar"
    assert "1.28 s" in told["answer"]
    assert {row["link"] for row in told["links"]} >= {"planner > researcher", "researcher > librarian"}
    assert all(row["state"] == "open" and row["path"] == "host/host" for row in told["links"])
    assert all(row["dtls"].startswith("DTLS 1.") for row in told["links"])
    for line in (
        r"planner +calls ask_researcher",
        r"researcher +is asked by planner",
        r"researcher +calls ask_librarian",
        r"librarian +answers researcher: The mean distance",
        r"planner +got from ask_researcher in \d+ ms",
        r"librarian +hears planner",
        r"OK: all answers came back over WebRTC data channels, by sidecar \(DTLS 1",
    ):
        assert re.search(line, done.stdout), f"{line} is not in:\n{done.stdout}"
    assert "\033" not in done.stdout, "colours are for terminals"
    asked = told["latency_ms"]
    assert asked["ask_librarian"] <= asked["ask_researcher"], "the nested request is part of the outer one"


def test_without_a_sidecar_it_says_so_and_uses_aiortc(tmp_path: Path) -> None:
    pytest.importorskip("aiortc")
    bare = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    try:
        find_sidecar(env=bare)
    except FileNotFoundError:
        pass
    else:
        pytest.skip("a sidecar is installed in this environment's own scripts folder: it is always found")
    done = demo("--json", **bare)
    assert done.returncode == 0, done.stderr
    assert result(done)["transport"] == "aiortc"
    assert "by aiortc (no sidecar binary was found" in done.stdout


def test_a_sidecar_that_is_asked_for_but_not_there_is_one_line_of_failure() -> None:
    done = demo("--json", "--transport", "sidecar", SIDECAR_BINARY="/nowhere/chatixia-sidecar")
    assert done.returncode == 1
    assert not result(done)["ok"]
    (line,) = done.stderr.splitlines()
    assert line.startswith("FAILED: ")
    assert "/nowhere/chatixia-sidecar" in line


def test_answers_that_came_by_the_mailbox_are_not_enough() -> None:
    done = demo("--transport", "mailbox")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "came by the mailbox, not over a data channel" in line


def test_the_same_demo_on_a_model_service() -> None:
    """All three agents use the client that OPENAI_API_KEY and OPENAI_BASE_URL configure."""
    pytest.importorskip("openai")
    with OpenAIServer(rule) as service:
        env = {"OPENAI_API_KEY": "sk-not-to-be-shown", "OPENAI_BASE_URL": service.url, "OPENAI_MODEL": "small"}
        done = demo("--json", SIDECAR_BINARY=sidecar_binary(), **env)
        assert done.returncode == 0, done.stderr
        systems = {body["messages"][0]["content"].split(".")[0] for body in service.requests}
        assert systems == {"You are the planner", "You are the researcher", "You are the librarian"}
        assert {body["model"] for body in service.requests} == {"small"}
    assert service.url in done.stdout
    assert "sk-not" not in done.stdout + done.stderr


def test_a_model_that_does_not_do_its_part_is_named() -> None:
    pytest.importorskip("openai")
    with OpenAIServer(lambda body: {"role": "assistant", "content": "I know it all."}) as service:
        done = demo("--json", SIDECAR_BINARY=sidecar_binary(), OPENAI_API_KEY="k", OPENAI_BASE_URL=service.url)
    assert done.returncode == 1
    assert result(done)["missing"] == "the planner's model did not call ask_researcher"


def test_a_model_service_that_fails_is_named() -> None:
    pytest.importorskip("openai")
    with OpenAIServer(rule) as service:
        service.fail_next.extend([400] * 9)
        done = demo(SIDECAR_BINARY=sidecar_binary(), OPENAI_API_KEY="k", OPENAI_BASE_URL=service.url)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("FAILED: planner: BadRequestError")


def test_too_little_time_is_told_with_what_it_was_doing() -> None:
    done = demo("--timeout", "0.3")
    assert done.returncode == 1
    assert "no end within 0.3 s" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def running() -> Iterator[subprocess.Popen[str]]:
    """The demo, in a session of its own, held up by a model that never answers."""
    pytest.importorskip("openai")
    with OpenAIServer(rule, delay_s=60) as service:
        argv, env = command(SIDECAR_BINARY=sidecar_binary(), OPENAI_API_KEY="k", OPENAI_BASE_URL=service.url)
        with subprocess.Popen(
            argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.mark.sidecar
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_no_process_outlives_the_demo(running: subprocess.Popen[str], how: signal.Signals) -> None:
    """Ctrl-C goes to the whole group, as a terminal sends it; a kill hits the demo alone."""
    assert running.stdout is not None
    for line in running.stdout:
        if "the user asks" in line:
            break
    children = psutil.Process(running.pid).children(recursive=True)
    names = " ".join(" ".join(c.cmdline()) for c in children)
    assert names.count("demo_member") == 3
    assert names.count("chatixia-sidecar") == 3
    assert "cli.registry" in names
    if how is signal.SIGINT:
        os.killpg(running.pid, how)
    else:
        running.send_signal(how)
    rest = running.stdout.read()
    running.wait(30)
    deadline = time.monotonic() + 30
    while left := [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.1)
    if how is signal.SIGINT:
        assert running.returncode == 130
        assert "Traceback" not in rest
