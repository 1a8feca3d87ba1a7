"""Which transport a configuration means: the one it names, or for `auto` the best that is here."""

from __future__ import annotations

import logging
from importlib.util import find_spec

from ..config import MeshConfig, environment
from ..errors import SidecarNotFound
from .base import Transport
from .memory import MemoryHub

logger = logging.getLogger(__name__)


def make_transport(config: MeshConfig, *, hub: MemoryHub | None = None) -> Transport:
    """Make the transport for `config`; its `why` tells the reason of the choice. `hub` is for `transport="memory"`.

    Raises ValueError for settings that do not fit, SidecarNotFound for a sidecar that was named but is not there.
    """
    name: str = config.transport
    why = "asked for"
    if name == "auto":
        name, why = _best(config)
    transport = _make(name, config, hub)
    transport.why = why
    logger.info("agent=%s: transport %s (%s)", config.name, name, why)
    return transport


def _best(config: MeshConfig) -> tuple[str, str]:
    if config.sidecar_socket:
        return "sidecar", f"attached to {config.sidecar_socket}"
    from .process import find_sidecar

    env = environment()
    try:
        return "sidecar", f"found {find_sidecar(config.sidecar_binary or None, env=env)}"
    except SidecarNotFound:
        if config.sidecar_binary or env.get("SIDECAR_BINARY"):
            raise  # a path that was named but is wrong is an error, not a reason to fall through
    if find_spec("aiortc") is not None:
        return "aiortc", "no sidecar binary was found; aiortc is installed"
    return "mailbox", "no sidecar binary was found and aiortc is not installed: messages go through the registry"


def _make(name: str, config: MeshConfig, hub: MemoryHub | None) -> Transport:
    # Imported where they are chosen: aiortc alone costs hundreds of milliseconds.
    match name:
        case "sidecar":
            from .sidecar import SidecarTransport

            return SidecarTransport(config)
        case "aiortc":
            from ..identity import Identity
            from .rtc import RtcTransport

            return RtcTransport(config, identity=Identity.load(config.identity_file) if config.identity_file else None)
        case "mailbox":
            from .mailbox import MailboxTransport

            return MailboxTransport(config)
        case _:
            if hub is None:
                raise ValueError("transport 'memory' needs the hub that its members share")
            return hub.transport(config.name, dial_all=config.dial == "peer_list")
