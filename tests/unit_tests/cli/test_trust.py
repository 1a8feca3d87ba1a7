"""`trust` as its user runs it: what it writes is what agents read."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from chatixia_langchain.cli.main import main
from chatixia_langchain.config import MeshConfig
from chatixia_langchain.mesh.keys import make_trust, own_card


def ran(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command."""
    code = main(["trust", *map(str, argv)])
    shown = capsys.readouterr()
    return code, shown.out.strip(), shown.err.strip()


def test_a_mesh_by_pins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = ran(capsys, "id", "--state-dir", tmp_path / "theirs")[1]
    assert ran(capsys, "id", "--state-dir", tmp_path / "theirs")[1] == theirs, "the key is made once"
    assert ran(capsys, "pin", "researcher", theirs, "--state-dir", tmp_path / "ours")[0] == 0
    assert ran(capsys, "list", "--state-dir", tmp_path / "ours")[1] == f"researcher  {theirs}"
    trust = make_trust(MeshConfig("planner", trust="pinned", state_dir=str(tmp_path / "ours")))
    assert trust.judge("researcher", theirs, "", time.time()) == ""
    assert ran(capsys, "forget", "researcher", "--state-dir", tmp_path / "ours")[0] == 0
    assert ran(capsys, "forget", "researcher", "--state-dir", tmp_path / "ours")[0] == 1


def test_a_mesh_by_a_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """init, sign, revoke, sign anew: each step as the agents see it."""
    root, card, state = tmp_path / "root", tmp_path / "card.jws", tmp_path / "state"
    assert ran(capsys, "init", root)[0] == 0
    print_ = ran(capsys, "id", "--state-dir", state)[1]
    config = MeshConfig(
        "planner",
        trust="mesh-root",
        mesh_root=str(root / "mesh-root.pub"),
        card_file=str(card),
        revocations=str(root / "revoked.jws"),
    )
    assert ran(capsys, "sign", "researcher", print_, "--root", root, "--out", card)[0] == 0
    trust = make_trust(config)
    assert trust.judge("researcher", print_, own_card(config), time.time()) == ""
    assert ran(capsys, "revoke", "researcher", "--root", root)[0] == 0
    assert "was revoked" in trust.judge("researcher", print_, own_card(config), time.time())
    assert ran(capsys, "sign", "researcher", print_, "--root", root, "--out", card)[0] == 0
    assert trust.judge("researcher", print_, own_card(config), time.time()) == ""


def test_what_is_wrong_is_named_and_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "root"
    ran(capsys, "init", root)
    secret = (root / "mesh-root.pem").read_bytes()
    for argv, why in [
        (("init", root), "mesh-root.pem"),
        (("sign", "a", "nonsense", "--root", root), "not a fingerprint"),
        (("sign", "a b", "sha-256 " + ":".join(["AB"] * 32), "--root", root), "not a peer id"),
        (("sign", "a", "sha-256 " + ":".join(["AB"] * 32), "--root", tmp_path / "none"), "mesh-root.pem"),
        (("pin", "a", "nonsense", "--state-dir", tmp_path / "s"), "not a fingerprint"),
    ]:
        code, _, err = ran(capsys, *argv)
        assert code == 1
        assert why in err
    assert (root / "mesh-root.pem").read_bytes() == secret


def test_settings_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mesh_root="):
        MeshConfig("a", trust="mesh-root")
    with pytest.raises(ValueError, match="trust 'blind'"):
        MeshConfig("a", trust="blind")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        own_card(MeshConfig("a", card_file=str(tmp_path / "nowhere")))
    assert own_card(MeshConfig("a", state_dir=str(tmp_path))) == ""
    assert MeshConfig.make("a", state_dir="~/x").state_dir == str(Path.home() / "x")
