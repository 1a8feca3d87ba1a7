"""Settings of one registry, frozen. Environment is passed in; nothing here reads it by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import Secret
from .auth import MIN_SECRET_CHARS
from .front import is_loopback
from .ice import parse_ice_servers


class SettingsError(Exception):
    """A setting is wrong; the text names it."""


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """How one registry runs. `port` 0: a free one. `db` None: state ends with the process.

    `allow_hosts` are the names it is called by (addresses and localhost always are), `allow_origins` the web pages that
    may call it. An address that other machines reach needs `tls_cert` and `tls_key`, or `plain_http`: a proxy in front
    does TLS, or the network is trusted.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    allow_query_token: bool = False
    allow_hosts: frozenset[str] = frozenset()
    allow_origins: frozenset[str] = frozenset()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    plain_http: bool = False
    db: Path | None = None
    audit_log: Path | None = None
    ice_servers: tuple[Mapping[str, Any], ...] = ()
    turn_urls: tuple[str, ...] = ()
    turn_secret: Secret = field(default_factory=lambda: Secret(""))
    token_secret: Secret = field(default_factory=lambda: Secret(""))

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"port {self.port} is not between 0 and 65535")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("--tls-cert and --tls-key go together")
        if not (is_loopback(self.host) or self.tls_cert or self.plain_http):
            raise SettingsError(
                f"{self.host} is reached from other machines, and without TLS keys and tokens can be read on the way:"
                " give --tls-cert and --tls-key, or --plain-http when a proxy in front does TLS"
            )
        if self.turn_urls and not self.turn_secret:
            raise SettingsError("TURN_URL is set but TURN_SECRET is not: peers could not log in to the TURN server")
        bad = [u for u in self.turn_urls if not u.startswith(("turn:", "turns:"))]
        if bad:
            raise SettingsError(f"TURN_URL {bad[0]!r} does not start with turn: or turns:")
        length = len(self.token_secret.reveal())
        if 0 < length < MIN_SECRET_CHARS:
            raise SettingsError(f"REGISTRY_SECRET has {length} characters; it needs at least {MIN_SECRET_CHARS}")

    @classmethod
    def make(
        cls,
        env: Mapping[str, str],
        *,
        host: str | None = None,
        port: int | None = None,
        allow_query_token: bool = False,
        allow_hosts: Sequence[str] = (),
        allow_origins: Sequence[str] = (),
        tls_cert: str | None = None,
        tls_key: str | None = None,
        plain_http: bool = False,
        db: str | None = None,
        audit_log: str | None = None,
        ice_servers: str | None = None,
    ) -> RegistrySettings:
        """Take arguments first, then `env`: PORT, ICE_SERVERS, TURN_URL; TURN_SECRET and REGISTRY_SECRET,
        each also as a file (_FILE).

        SIGNALING_SECRET is the old name of REGISTRY_SECRET. Raises SettingsError naming the setting.
        """
        if port is None:
            text = env.get("PORT", "").strip() or "8080"
            if not (text.isascii() and text.isdecimal()):
                raise SettingsError(f"PORT {text!r} is not a number")
            port = int(text)
        try:
            servers = parse_ice_servers(ice_servers if ice_servers is not None else env.get("ICE_SERVERS", ""))
        except ValueError as exc:
            raise SettingsError(str(exc)) from exc
        return cls(
            host=host or "127.0.0.1",
            port=port,
            allow_query_token=allow_query_token,
            allow_hosts=frozenset(name.lower().rstrip(".") for name in allow_hosts),
            allow_origins=frozenset(origin.lower().rstrip("/") for origin in allow_origins),
            tls_cert=Path(tls_cert) if tls_cert else None,
            tls_key=Path(tls_key) if tls_key else None,
            plain_http=plain_http,
            db=Path(db) if db else None,
            audit_log=Path(audit_log) if audit_log else None,
            ice_servers=tuple(servers),
            turn_urls=tuple(u.strip() for u in env.get("TURN_URL", "").split(",") if u.strip()),
            turn_secret=Secret(_secret(env, "TURN_SECRET")),
            token_secret=Secret(_secret(env, "REGISTRY_SECRET") or env.get("SIGNALING_SECRET", "")),
        )


def _secret(env: Mapping[str, str], name: str) -> str:
    """A secret from the variable `name`, or from the file that `<name>_FILE` names."""
    file = env.get(f"{name}_FILE", "")
    if env.get(name) or not file:
        return env.get(name, "")
    try:
        secret = Path(file).read_text().strip()
    except (OSError, UnicodeError) as exc:
        raise SettingsError(f"{name}_FILE {file!r} cannot be read: {exc}") from exc
    if not secret:
        raise SettingsError(f"{name}_FILE {file!r} is empty")
    return secret
