"""Which binary is the sidecar: the order of places, and what is said when none has it."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from chatixia_langchain.errors import SidecarNotFound
from chatixia_langchain.transport.process import NAME, find_sidecar


def binary(folder: Path, name: str = NAME, mode: int = 0o755) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text("#!/bin/sh\n")
    file.chmod(mode)
    return file


@pytest.fixture(autouse=True)
def no_scripts_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if the package had no binary of its own: the machine that runs this may have one."""
    monkeypatch.setattr(sysconfig, "get_path", lambda *a, **k: str(tmp_path / "scripts"))


def test_explicit_path_wins_over_all(tmp_path: Path) -> None:
    one, two, three = (binary(tmp_path / n) for n in "abc")
    env = {"SIDECAR_BINARY": str(two), "PATH": str(three.parent)}
    assert find_sidecar(one, env=env) == str(one)
    assert find_sidecar(env=env) == str(two)
    assert find_sidecar(env={"PATH": str(three.parent)}) == str(three)


def test_scripts_folder_comes_last(tmp_path: Path) -> None:
    own = binary(tmp_path / "scripts")
    assert find_sidecar(env={"PATH": str(tmp_path / "nowhere")}) == str(own)


@pytest.mark.parametrize("source", ["sidecar_binary", "SIDECAR_BINARY"])
def test_a_named_path_that_is_wrong_is_an_error_and_no_fall_through(tmp_path: Path, source: str) -> None:
    good, bad = binary(tmp_path / "a"), binary(tmp_path / "b", "not-executable", 0o644)
    for wrong in (bad, tmp_path / "missing", tmp_path):
        env = {"PATH": str(good.parent)} | ({source: str(wrong)} if source.isupper() else {})
        with pytest.raises(SidecarNotFound, match=f"{source} names .*{wrong.name}.*not an executable file"):
            find_sidecar(wrong if source.islower() else None, env=env)


def test_nothing_found_says_where_it_looked_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SidecarNotFound) as error:
        find_sidecar(env={"PATH": str(tmp_path)})
    text = str(error.value)
    assert isinstance(error.value, RuntimeError)
    for part in (str(tmp_path / "scripts"), "pip install", "cargo build --release", "SIDECAR_BINARY", "aiortc"):
        assert part in text
