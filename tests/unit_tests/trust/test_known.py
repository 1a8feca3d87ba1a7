"""Pins: what is read, what is written, what is refused."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from chatixia_langchain.trust.known import KnownPeers, normal

# Made-up ones: they stand in the names of tests, which several workers must agree on.
A, B = ("sha-256 " + ":".join(f"{n:02X}" for n in range(start, start + 32)) for start in (0x10, 0xA0))


def test_pins_are_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "known-peers.json"
    known = KnownPeers(path=path)
    known.pin("a", A)
    known.pin("b", B)
    assert known.forget("b")
    assert not known.forget("b")
    assert KnownPeers(path=path).all() == {"a": A}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["known-peers.json"]


def test_pins_of_the_program_go_before_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "known-peers.json"
    KnownPeers(path=path).pin("a", A)
    assert KnownPeers({"a": B}, path=path).get("a") == B


def test_a_fingerprint_is_compared_not_its_spelling() -> None:
    assert normal(A.lower()) == normal(f"  {A} ") == A
    assert KnownPeers({"a": A.lower()}).get("a") == A


@pytest.mark.parametrize("text", ["", "sha-256", A[:-3], A + ":00", A.replace("sha-256", "sha-1"), A.replace(":", "")])
def test_what_is_no_fingerprint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a fingerprint"):
        KnownPeers({"a": text})


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "not JSON"),
        ("[]", "must look like"),
        ('{"peers": []}', "must look like"),
        (json.dumps({"peers": {"a b": A}}), "not a peer id"),
        (json.dumps({"peers": {"a": 7}}), "not text"),
    ],
)
def test_a_file_that_is_not_the_format_is_named(tmp_path: Path, text: str, fault: str) -> None:
    """Never "no pins": then everybody would be new, and let in."""
    path = tmp_path / "known-peers.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=fault) as caught:
        KnownPeers(path=path)
    assert "known-peers.json" in str(caught.value)
