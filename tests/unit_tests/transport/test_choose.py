"""`auto` takes the best transport that is here and says which and why."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from chatixia_langchain.config import MeshConfig
from chatixia_langchain.errors import SidecarNotFound
from chatixia_langchain.transport import choose, process
from chatixia_langchain.transport.base import Transport
from chatixia_langchain.transport.memory import MemoryHub


def make(**settings: Any) -> Transport:
    return choose.make_transport(MeshConfig.make("me", registry="http://127.0.0.1:9", env={}, **settings))


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No binary anywhere."""
    monkeypatch.setattr(choose, "environment", lambda: {"PATH": str(tmp_path)})
    monkeypatch.setattr(process.sysconfig, "get_path", lambda *a, **k: str(tmp_path))


def test_auto_takes_the_sidecar_that_was_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    binary = tmp_path / "sidecar"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    with caplog.at_level(logging.INFO):
        transport = make(sidecar_binary=str(binary))
    assert transport.name == "sidecar"
    assert str(binary) in transport.why
    assert any("transport sidecar" in r.message and str(binary) in r.message for r in caplog.records)


@pytest.mark.usefixtures("nothing")
def test_auto_takes_aiortc_and_then_the_mailbox(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = make()
    assert (transport.name, transport.why) == ("aiortc", "no sidecar binary was found; aiortc is installed")
    monkeypatch.setattr(choose, "find_spec", lambda name: None)
    transport = make()
    assert transport.name == "mailbox"
    assert "not installed" in transport.why


@pytest.mark.usefixtures("nothing")
def test_auto_does_not_hide_a_wrong_path() -> None:
    with pytest.raises(SidecarNotFound):
        make(sidecar_binary="/nowhere/sidecar")


def test_auto_attaches_when_a_socket_is_named() -> None:
    transport = make(sidecar_socket="/run/agent.sock")
    assert transport.name == "sidecar"
    assert "/run/agent.sock" in transport.why


@pytest.mark.parametrize("name", ["sidecar", "aiortc", "mailbox"])
def test_a_registry_is_needed_and_the_setting_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="registry="):
        choose.make_transport(MeshConfig.make("me", transport=name, env={}))


def test_memory_needs_its_hub() -> None:
    config = MeshConfig.make("me", transport="memory", env={})
    assert choose.make_transport(config, hub=MemoryHub()).name == "memory"
    with pytest.raises(ValueError, match="hub"):
        choose.make_transport(config)
