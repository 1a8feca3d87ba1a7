"""A peer's key: ECDSA P-256, with a self-signed certificate that DTLS shows to the other side.

A peer *is* its key; the fingerprint is how others speak of it. Kept in a PEM file (mode 0600: key, then certificate)
that the sidecar reads as `IDENTITY_FILE`, or fresh for each start when there is no place to keep it.
"""

from __future__ import annotations

import datetime
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VALID_DAYS = 3650  # nobody checks the dates of a self-signed certificate but some TLS libraries
BACKDATE_DAYS = 1  # for the clocks of others


@dataclass(frozen=True, slots=True)
class Identity:
    """Key and certificate of one peer."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def fingerprint(self) -> str:
        """`sha-256 AB:CD:..` of the certificate, as session descriptions write it."""
        return "sha-256 " + self.certificate.fingerprint(hashes.SHA256()).hex(":").upper()

    def __repr__(self) -> str:
        return f"Identity({self.fingerprint})"

    @classmethod
    def fresh(cls) -> Identity:
        """A new one."""
        key = ec.generate_private_key(ec.SECP256R1())
        # A random name: two peers cannot be told apart, or linked, by it.
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, secrets.token_hex(8))])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=BACKDATE_DAYS))
            .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    def pem(self) -> bytes:
        """Key (PKCS #8, not encrypted) and certificate."""
        key = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return key + self.certificate.public_bytes(serialization.Encoding.PEM)

    @classmethod
    def from_pem(cls, data: bytes) -> Identity:
        """Read what `pem` wrote. Raises ValueError naming what is wrong; the text holds nothing of the key."""
        try:
            key = serialization.load_pem_private_key(data, password=None)
            certificate = x509.load_pem_x509_certificate(data)
        except (ValueError, TypeError) as exc:
            raise ValueError("the identity needs an unencrypted PEM private key and a PEM certificate") from exc
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("the identity's key is not an ECDSA P-256 key")
        if certificate.public_key() != key.public_key():
            raise ValueError("the identity's certificate belongs to another key")
        return cls(key, certificate)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Identity:
        """Read the file, or write a new identity to it when there is none.

        Raises ValueError when it holds no identity or others may read it, OSError when it cannot be read or written.
        """
        file = Path(path)
        try:
            with file.open("rb") as opened:
                mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
                data = opened.read(65_536)
        except FileNotFoundError:
            return cls._create(file)
        if mode & 0o077:
            raise ValueError(f"{file} may be read by others (mode {mode:04o}): chmod 600 it")
        try:
            return cls.from_pem(data)
        except ValueError as exc:
            raise ValueError(f"{file}: {exc}") from exc

    @classmethod
    def _create(cls, file: Path) -> Identity:
        identity = cls.fresh()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(identity.pem())
            os.fsync(opened.fileno())
        try:
            os.link(draft, file)  # whole or not at all; the first of two starts at once wins
        except FileExistsError:
            return cls.load(file)
        finally:
            draft.unlink()
        return identity
