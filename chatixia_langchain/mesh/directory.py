"""What the registry's directory tells of other agents: description and skills, which are text they wrote themselves.

- read once after joining, and again, for all at once, when a peer joins or one is asked for that nobody has seen
- a record that is malformed is skipped: it is somebody else's input
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import MeshError
from ..protocol.limits import is_peer_id
from .core import MAX_PEERS, Core

if TYPE_CHECKING:
    from ..transport.registry_api import RegistryApi

logger = logging.getLogger(__name__)

PAUSE_S = 0.05  # joins within this time share one read
RETRIES_S = (0.5, 2.0)  # after a read that did not bring what was wanted: the peer may still be registering
CARD_S = 1.0  # for whoever waits for a peer: a read and its first repetition, since signaling is faster than HTTP
MAX_SKILLS = 64
MAX_TEXT_CHARS = 4_000


async def card_of(core: Core, peer_id: str) -> None:
    """Wait until the directory told of a peer that is there, at most `CARD_S`: a peer may be in none."""
    peer = core.peer(peer_id)
    if core.lookup is None or peer.card_known.is_set():  # without a directory the transport brings the card
        return
    core.lookup(peer_id)
    try:
        async with asyncio.timeout(CARD_S):
            await peer.card_known.wait()
    except TimeoutError:
        logger.debug("agent=%s: the directory does not know peer=%s", core.name, peer_id)


class Directory:
    """Keeps the cards of the peers in `core` up to date."""

    def __init__(self, core: Core, api: RegistryApi) -> None:
        self._core, self._api = core, api
        self._wanted: set[str] = set()  # bounded by the peers
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def want(self, peer_id: str) -> None:
        """Look `peer_id` up soon; does not wait."""
        self._wanted.add(peer_id)
        self.refresh()

    def refresh(self) -> None:
        """Read the directory soon; does not wait."""
        self._asked.set()
        if self._task is None and not self._core.closing:
            self._task = self._core.spawn(self._read(), "directory")

    async def _read(self) -> None:
        pauses = list(RETRIES_S)
        try:
            while True:
                await asyncio.sleep(PAUSE_S)
                self._asked.clear()
                try:
                    self._wanted -= self.take(await self._api.directory())
                except MeshError as exc:
                    logger.debug("agent=%s: directory not read: %s", self._core.name, exc)
                if not self._asked.is_set() and not (self._wanted and pauses):
                    self._wanted.clear()
                    return
                try:
                    async with asyncio.timeout(pauses[0] if pauses else None):
                        await self._asked.wait()  # somebody new is wanted: not to be held up by an old absence
                    pauses = list(RETRIES_S)
                except TimeoutError:
                    del pauses[0]
        finally:
            self._task = None

    def take(self, records: list[dict[str, Any]]) -> set[str]:
        """Note what `records` say; returns the peers they speak of."""
        found: set[str] = set()
        for record in records[:MAX_PEERS]:
            peer_id = record.get("sidecar_peer_id") or record.get("agent_id")
            if not isinstance(peer_id, str) or not is_peer_id(peer_id) or peer_id == self._core.name:
                continue
            peer = self._core.peer(peer_id)
            peer.description, peer.card_skills = read_card(record)
            peer.seen = True
            peer.card_known.set()
            found.add(peer_id)
        self._core.changed()
        return found


def read_card(record: Mapping[str, Any]) -> tuple[str, tuple[Mapping[str, Any], ...]]:
    """Description and skills of a directory record; agents of the existing mesh have only the skills' names."""
    card = record.get("card")
    if not isinstance(card, dict):
        capabilities = record.get("capabilities")
        names = capabilities.get("skills") if isinstance(capabilities, dict) else None
        card = {"skills": [{"name": name} for name in names] if isinstance(names, list) else []}
    description = card.get("description")
    skills = card.get("skills")
    good = (
        [s for s in skills if isinstance(s, dict) and isinstance(s.get("name"), str)]
        if isinstance(skills, list)
        else []
    )
    return (description[:MAX_TEXT_CHARS] if isinstance(description, str) else ""), tuple(good[:MAX_SKILLS])
