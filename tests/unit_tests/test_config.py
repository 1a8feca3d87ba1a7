"""Settings: precedence, refusals that name the setting, secrets that do not print."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatixia_langchain.config import MeshConfig, Secret


def test_argument_beats_environment_beats_default() -> None:
    env = {"CHATIXIA_REGISTRY_URL": "http://env:1", "CHATIXIA_TRANSPORT": "mailbox", "CHATIXIA_API_KEY": "from-env"}
    made = MeshConfig.make("a", env=env)
    assert (made.registry, made.transport, made.api_key.reveal()) == ("http://env:1", "mailbox", "from-env")
    made = MeshConfig.make("a", registry="http://arg:2", transport="memory", api_key="arg", env=env)
    assert (made.registry, made.transport, made.api_key.reveal()) == ("http://arg:2", "memory", "arg")
    assert MeshConfig.make("a", env={}).transport == "auto"


def test_key_from_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-file\n")
    assert MeshConfig.make("a", env={"CHATIXIA_API_KEY_FILE": str(file)}).api_key.reveal() == "from-file"
    with pytest.raises(ValueError, match="CHATIXIA_API_KEY_FILE"):
        MeshConfig.make("a", env={"CHATIXIA_API_KEY_FILE": str(tmp_path / "missing")})


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "a\n", "x" * 65, "é"])
def test_illegal_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a peer id"):
        MeshConfig.make(name, env={})


def test_unknown_transport_and_scheme_are_named() -> None:
    with pytest.raises(ValueError, match="pigeon"):
        MeshConfig.make("a", transport="pigeon", env={})
    with pytest.raises(ValueError, match="ftp"):
        MeshConfig.make("a", registry="ftp://x", env={})


def test_urls_derive_from_the_registry() -> None:
    made = MeshConfig.make("a", registry="https://mesh.example/", env={})
    assert (made.signaling_url, made.token_url) == ("wss://mesh.example/ws", "https://mesh.example/api/token")


def test_secret_never_prints() -> None:
    config = MeshConfig.make("a", api_key="hunter2", env={})
    assert "hunter2" not in f"{config!r} {config} {Secret('hunter2')!s} {Secret('hunter2')!r}"
