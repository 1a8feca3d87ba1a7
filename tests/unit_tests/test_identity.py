"""A peer's key: kept whole, kept private, the same fingerprint everywhere."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from chatixia_langchain.identity import Identity


def test_it_is_kept_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "state/identity.pem"
    first = Identity.load(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert Identity.load(file).fingerprint == first.fingerprint
    assert [p.name for p in file.parent.iterdir()] == ["identity.pem"]


def test_fingerprint_is_the_sha_256_of_the_certificate() -> None:
    identity = Identity.fresh()
    digest = hashlib.sha256(identity.certificate.public_bytes(serialization.Encoding.DER)).hexdigest().upper()
    name, value = identity.fingerprint.split(" ")
    assert (name, value.replace(":", "")) == ("sha-256", digest)
    assert len(value) == 95


def test_two_are_never_the_same_and_say_nothing_of_their_owner() -> None:
    a, b = Identity.fresh(), Identity.fresh()
    assert a.fingerprint != b.fingerprint
    assert "PRIVATE" not in repr(a)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "identity.pem"
    Identity.load(file)
    file.chmod(0o644)
    with pytest.raises(ValueError, match="may be read by others"):
        Identity.load(file)


def test_what_is_no_identity_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "identity.pem"
    key, other = ec.generate_private_key(ec.SECP256R1()), Identity.fresh()
    whole = other.pem()
    certificate = whole[whole.index(b"-----BEGIN CERT") :]
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for data, why in (
        (b"", "unencrypted PEM private key"),
        (whole[: whole.index(b"-----BEGIN CERT")], "PEM certificate"),
        (key.private_bytes(*plain) + certificate, "belongs to another key"),
        (rsa.generate_private_key(65537, 2048).private_bytes(*plain) + certificate, "not an ECDSA P-256 key"),
    ):
        file.write_bytes(data)
        file.chmod(0o600)
        with pytest.raises(ValueError, match=why):
            Identity.load(file)
