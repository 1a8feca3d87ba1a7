"""Who is let in: the four ways to know a peer, and each way to be another."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatixia_langchain.identity import Identity
from chatixia_langchain.trust.cards import CardError, MeshRoot, RootKey
from chatixia_langchain.trust.judge import Trust
from chatixia_langchain.trust.known import KnownPeers

NOW = 1_800_000_000.0
A, B = Identity.fresh().fingerprint, Identity.fresh().fingerprint
ROOT = RootKey.fresh()
PUBLIC = MeshRoot(ROOT.public_pem())


def by_root(revocations: str = "") -> Trust:
    return Trust("mesh-root", KnownPeers(), root=PUBLIC, revocations=lambda: revocations)


def test_the_registry_alone_is_believed_only_when_that_was_chosen() -> None:
    assert Trust("registry", KnownPeers({"a": A})).judge("a", B, "", NOW) == ""
    for mode in ("tofu", "pinned"):
        assert Trust(mode, KnownPeers({"a": A})).judge("a", B, "", NOW) != ""  # type: ignore[arg-type]


def test_a_pinned_name_has_its_key_and_no_other() -> None:
    trust = Trust("pinned", KnownPeers({"a": A}))
    assert trust.judge("a", A, "", NOW) == ""
    assert trust.judge("a", A.lower(), "", NOW) == ""
    assert "is not the one it is known by" in trust.judge("a", B, "", NOW)
    assert "is not pinned" in trust.judge("b", B, "", NOW)
    assert "shows no certificate" in trust.judge("a", "", "", NOW)


def test_first_use_pins_and_a_change_is_told(tmp_path: Path) -> None:
    path = tmp_path / "known-peers.json"
    trust = Trust("tofu", KnownPeers(path=path))
    assert trust.judge("a", A, "", NOW) == ""
    why = trust.judge("a", B, "", NOW)
    assert A in why
    assert B in why
    assert "trust forget a" in why
    assert Trust("tofu", KnownPeers(path=path)).judge("a", B, "", NOW) != "", "a restart forgets nothing"


def test_a_pin_that_cannot_be_kept_lets_nobody_in(tmp_path: Path) -> None:
    """Else the next channel would be a first use again."""
    trust = Trust("tofu", KnownPeers(path=tmp_path / "no" / "such" / "folder" / "known.json"))
    assert "could not be pinned" in trust.judge("a", A, "", NOW)


def test_what_the_registry_announces_is_checked_before_a_dial() -> None:
    assert Trust("pinned", KnownPeers({"a": A})).announced("a", A) == ""
    assert Trust("pinned", KnownPeers({"a": A})).announced("a", B) != ""
    assert Trust("pinned", KnownPeers({"a": A})).announced("b", B) != ""
    assert Trust("tofu", KnownPeers({"a": A})).announced("b", B) == ""
    assert by_root().announced("a", B) == "", "its card comes over the channel"


def test_a_card_of_the_root_lets_in_its_name_with_its_key() -> None:
    card = ROOT.sign("a", A, serial=3, now=NOW)
    assert by_root().judge("a", A, card, NOW) == ""
    assert "shows the card of 'a'" in by_root().judge("b", A, card, NOW)
    assert "for another key" in by_root().judge("a", B, card, NOW)
    assert "shows no card" in by_root().judge("a", A, "", NOW)
    assert "is over" in by_root().judge("a", A, card, NOW + 366 * 86400)


def test_cards_of_others_and_things_that_are_no_cards_are_refused() -> None:
    other = RootKey.fresh()
    head, body, signature = ROOT.sign("a", A, serial=1, now=NOW).split(".")
    none = (
        base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "chatixia-card+jws"}).encode()).decode().rstrip("=")
    )
    forged = base64.urlsafe_b64encode(json.dumps({"sub": "a", "fpr": A, "serial": 9, "exp": 2**40}).encode()).decode()
    for card in (
        other.sign("a", A, serial=1, now=NOW),
        f"{head}.{forged.rstrip('=')}.{signature}",
        f"{none}.{body}.",
        f"{none}.{body}.{signature}",
        f"{head}.{body}.",
        f"{head}.{body}",
        "x" * 300_000,
        "a.b.c",
        "é.ü.ß",
    ):
        assert "is not taken" in by_root().judge("a", A, card, NOW), card[:80]


def test_a_list_of_revocations_is_no_card_and_a_card_no_list() -> None:
    listed = ROOT.revoke({"a": 1}, serial=1, now=NOW)
    assert "is something else" in by_root().judge("a", A, listed, NOW)
    assert "is not taken" in by_root(ROOT.sign("a", A, serial=1, now=NOW)).judge(
        "a", A, ROOT.sign("a", A, serial=2, now=NOW), NOW
    ), "a list that cannot be read lets nobody in"


def test_revoked_cards_end_and_newer_ones_are_good() -> None:
    listed = ROOT.revoke({"a": 3}, serial=1, now=NOW)
    assert "was revoked" in by_root(listed).judge("a", A, ROOT.sign("a", A, serial=3, now=NOW), NOW)
    assert by_root(listed).judge("a", A, ROOT.sign("a", A, serial=4, now=NOW), NOW) == ""
    assert by_root(listed).judge("b", B, ROOT.sign("b", B, serial=1, now=NOW), NOW) == ""


def test_an_older_list_brings_nobody_back() -> None:
    lists = [ROOT.revoke({"a": 3}, serial=2, now=NOW), ROOT.revoke({}, serial=1, now=NOW)]
    trust = Trust("mesh-root", KnownPeers(), root=PUBLIC, revocations=lambda: lists[0])
    card = ROOT.sign("a", A, serial=3, now=NOW)
    assert "was revoked" in trust.judge("a", A, card, NOW)
    lists.reverse()
    assert "was revoked" in trust.judge("a", A, card, NOW)


@given(st.text(max_size=400))
def test_no_text_is_a_card_by_chance_and_none_breaks_the_reader(text: str) -> None:
    with pytest.raises(CardError):
        PUBLIC.card(text, now=NOW)


def test_the_root_key_is_private_and_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "root.pem"
    ROOT.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert by_root().judge("a", A, RootKey.load(path).sign("a", A, serial=1, now=NOW), NOW) == ""
    with pytest.raises(FileExistsError):
        RootKey.fresh().save(path)
    path.chmod(0o644)
    with pytest.raises(CardError, match="chmod 600"):
        RootKey.load(path)
    public = tmp_path / "root.pub"
    public.write_bytes(ROOT.public_pem())
    public.chmod(0o600)
    with pytest.raises(CardError, match="no private key"):
        RootKey.load(public)
    for text in (b"", b"nonsense", Identity.fresh().pem().split(b"-----BEGIN CERT")[1]):
        with pytest.raises(CardError):
            MeshRoot(text)


def test_a_mesh_root_is_needed_to_trust_one() -> None:
    with pytest.raises(ValueError, match="mesh_root="):
        Trust("mesh-root", KnownPeers())
