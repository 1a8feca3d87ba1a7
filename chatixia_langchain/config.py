"""Settings of one mesh member, frozen. The only module that reads environment variables.

Precedence: argument, then environment, then default. Environment: `CHATIXIA_REGISTRY_URL`, `CHATIXIA_API_KEY` or
`CHATIXIA_API_KEY_FILE`, `CHATIXIA_TRANSPORT`, `SIDECAR_BINARY`, `ICE_SERVERS`. No `.env` file is read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args
from urllib.parse import urlsplit

from .protocol.limits import is_peer_id

TransportName = Literal["auto", "sidecar", "aiortc", "memory", "mailbox"]
TrustMode = Literal["registry", "tofu", "pinned", "mesh-root"]
TRUST_MODES: tuple[TrustMode, ...] = get_args(TrustMode)
TRANSPORTS: tuple[TransportName, ...] = ("auto", "sidecar", "aiortc", "memory", "mailbox")


class Secret:
    """A string that prints as `***`. `reveal()` gives it out."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself: only for the call that sends it."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "Secret('***')" if self._value else "Secret('')"

    __str__ = __repr__


@dataclass(frozen=True, slots=True)
class MeshConfig:
    """All settings of a `Mesh`. Times in seconds.

    `registry` is the base URL (`https://mesh.example`); `skills` may be names or `{name, description, input_schema}`.
    `sidecar_binary` and `sidecar_socket` (attach to a running sidecar instead of spawning one) are for
    `transport="sidecar"`. `state_dir` is where the agent keeps what must outlive its process, "" for nowhere: a folder
    that only its user may read, made on start. Its key is there too (`identity.pem`): without a folder it is a fresh
    one with every start.

    `trust` says how peers are known: by the registry's word; `tofu`, by the key they had first; `pinned`, by the
    fingerprints in `pins` or in the folder's `known-peers.json`; `mesh-root`, by a card signed with the key whose
    public half is the file `mesh_root`. Our own card is the file `card_file`, or `card.jws` in the folder;
    `revocations` is a file too. Peers that cannot show who they are stay out but with `allow_unverified`.
    """

    name: str
    registry: str = ""
    api_key: Secret = field(default_factory=lambda: Secret(""))
    description: str = ""
    skills: tuple[Mapping[str, Any], ...] = ()
    transport: TransportName = "auto"
    sidecar_binary: str = ""
    sidecar_socket: str = ""
    ice_servers: tuple[Mapping[str, Any], ...] = ()
    dial: Literal["peer_list", "on_demand"] = "on_demand"
    request_timeout_s: float = 60.0
    connect_timeout_s: float = 15.0
    mailbox_after_s: float = 3.0
    max_inflight_per_peer: int = 256
    max_inbox: int = 1024
    state_dir: str = ""
    trust: TrustMode = "registry"
    pins: Mapping[str, str] = field(default_factory=dict)
    mesh_root: str = ""
    card_file: str = ""
    revocations: str = ""
    allow_unverified: bool = False
    extra_env: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not is_peer_id(self.name):
            rule = "1 to 64 of A-Z a-z 0-9 . _ -, starting with a letter or digit"
            raise ValueError(f"name {self.name!r} is not a peer id: {rule}")
        if self.transport not in TRANSPORTS:
            raise ValueError(f"transport {self.transport!r} is unknown; choose one of {', '.join(TRANSPORTS)}")
        if self.trust not in TRUST_MODES:
            raise ValueError(f"trust {self.trust!r} is unknown; choose one of {', '.join(TRUST_MODES)}")
        if self.trust == "mesh-root" and not self.mesh_root:
            raise ValueError("trust 'mesh-root' needs mesh_root=, the file with the public key of the mesh's root")
        if self.registry and urlsplit(self.registry).scheme not in ("http", "https"):
            raise ValueError(f"registry {self.registry!r} is not an http:// or https:// URL")

    @property
    def identity_file(self) -> str:
        """The file with this agent's key and certificate, "" for a fresh one with every start."""
        return str(Path(self.state_dir) / "identity.pem") if self.state_dir else ""

    @property
    def signaling_url(self) -> str:
        """`ws://` or `wss://` URL of the registry's signaling, or ""."""
        return "ws" + self.registry.rstrip("/").removeprefix("http") + "/ws" if self.registry else ""

    @property
    def token_url(self) -> str:
        """URL of the registry's token exchange, or ""."""
        return self.registry.rstrip("/") + "/api/token" if self.registry else ""

    def card(self) -> dict[str, Any]:
        """What the directory tells other agents about this one."""
        return {"description": self.description, "skills": [dict(s) for s in self.skills]}

    @classmethod
    def make(
        cls,
        name: str,
        *,
        registry: str | None = None,
        api_key: str | Secret | None = None,
        transport: str | None = None,
        skills: Sequence[str | Mapping[str, Any]] = (),
        env: Mapping[str, str] | None = None,
        **rest: Any,
    ) -> MeshConfig:
        """Fill what is None from `env` (default: this process's environment).

        Raises ValueError naming the setting that is wrong.
        """
        env = os.environ if env is None else env
        if api_key is None:
            api_key = env.get("CHATIXIA_API_KEY", "")
            key_file = env.get("CHATIXIA_API_KEY_FILE", "")
            if not api_key and key_file:
                try:
                    api_key = Path(key_file).read_text().strip()
                except OSError as exc:
                    why = f"CHATIXIA_API_KEY_FILE names {key_file!r}, which cannot be read: {exc.strerror}"
                    raise ValueError(why) from exc
        if "state_dir" in rest:
            rest["state_dir"] = os.path.expanduser(rest["state_dir"])
        wanted = transport or env.get("CHATIXIA_TRANSPORT") or "auto"
        return cls(
            name=name,
            registry=registry if registry is not None else env.get("CHATIXIA_REGISTRY_URL", ""),
            api_key=api_key if isinstance(api_key, Secret) else Secret(api_key),
            transport=cast("TransportName", wanted),
            skills=tuple({"name": s} if isinstance(s, str) else dict(s) for s in skills),
            **rest,
        )


def environment() -> Mapping[str, str]:
    """This process's environment, for those who hand parts of it on to a process they start."""
    return os.environ
