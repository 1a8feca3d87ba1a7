"""The agents in Go and Node speak IPC with nothing but their standard libraries, in under 60 lines."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from ...support import ROOT
from .conftest import Machine

EXAMPLES = ROOT / "examples/other_languages"
PROMPT = {
    "type": "agent_prompt",
    "request_id": "r1",
    "source_agent": "peer-abc",
    "target_agent": "peer-xyz",
    "payload": {"message": "hello"},
}


@pytest.mark.parametrize(("tool", "file"), [("go", "agent.go"), ("node", "agent.mjs")])
def test_agent_answers_a_prompt(machine: Machine, tool: str, file: str) -> None:
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")
    path = EXAMPLES / file
    assert len(path.read_text().splitlines()) < 60
    machine.start_registry()
    machine.start_sidecar("peer-abc")
    abc = machine.typist("peer-abc")
    socket = machine.start_sidecar("peer-xyz")
    command = ["go", "run", str(path)] if tool == "go" else ["node", str(path)]
    if tool == "go":  # compile once, so that killing the agent kills the agent and not only `go run`
        binary = machine.folder / "agent-go"
        subprocess.run(
            ["go", "build", "-o", str(binary), str(path)], check=True, timeout=120, env=_go_env(machine.folder)
        )
        command = [str(binary)]
    machine.procs[tool] = subprocess.Popen([*command, str(socket)], stdout=subprocess.DEVNULL)
    assert "peer_connected" in abc.read(20)
    abc.type(json.dumps({"type": "send", "payload": {"target_peer": "peer-xyz", "message": PROMPT}}))
    answer = json.loads(abc.read(20))["payload"]
    assert answer["from_peer"] == "peer-xyz"
    assert answer["message"]["type"] == "agent_response"
    assert answer["message"]["request_id"] == "r1"
    assert "hello" in answer["message"]["payload"]["response"]


def _go_env(folder: Path) -> dict[str, str]:
    import os

    return {**os.environ, "GOCACHE": str(folder / "go-cache"), "GOFLAGS": "-mod=mod", "GO111MODULE": "off"}
