"""What a mesh does with its registry beside the channels: its card in the directory, and the mailbox as second path.

- `register` runs while the transport starts: a wrong credential is an error of `start`, with the registry's words
- `start`: sign of life every 15 s, the directory, and the mailbox's receive loop
- a registry that cannot be reached is no error: channels that are open need it not
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ..config import MeshConfig
from ..errors import MeshError, RegistryRefused
from .directory import Directory
from .engine import Engine

if TYPE_CHECKING:
    from ..transport.mailbox import MailboxTransport
    from ..transport.registry_api import RegistryApi

logger = logging.getLogger(__name__)

RETRY_S = 5.0  # for a mailbox that could not be started: only while the registry is away


class SecondPath:
    """The registry's part in one mesh. Without a registry and a key it does nothing."""

    def __init__(self, config: MeshConfig, engine: Engine) -> None:
        self._config, self._engine = config, engine
        self._mailbox: MailboxTransport | None = None
        self._api: RegistryApi | None = None
        self._registered = False
        self._has_card = False  # ours to register; a mailbox that is the first path does that by itself

    def _make(self) -> None:
        """Make the registry's client. Imported here: it costs as much as the rest, and a sidecar starts meanwhile."""
        config, transport = self._config, self._engine.core.transport.name
        if not config.registry or not config.api_key or transport == "memory":
            return
        from ..transport.mailbox import MailboxTransport
        from ..transport.registry_api import RegistryApi

        self._api = RegistryApi(config)
        self._has_card = transport != "mailbox"
        if self._has_card and not self._engine.trust.strict:  # the mailbox shows nobody's key
            self._mailbox = MailboxTransport(config, self._api, presence=False)

    async def register(self) -> None:
        """Put our card into the directory. Raises RegistryRefused; a registry that is away is tried again later."""
        await asyncio.sleep(0)  # let the transport begin
        self._make()
        if self._api is None or not self._has_card:
            return
        try:
            await self._api.register()
            self._registered = True
        except RegistryRefused:
            raise
        except MeshError as exc:
            logger.warning("agent=%s: %s", self._engine.core.name, exc)

    def start(self) -> None:
        """Begin what goes on beside the channels."""
        if self._api is None:
            return
        core = self._engine.core
        directory = Directory(core, self._api)
        core.lookup = directory.want
        directory.refresh()
        for peer in core.snapshot():  # joined while we started
            directory.want(peer)
        if self._has_card:
            core.spawn(self._api.keep_registered(), "card")
        if self._mailbox is not None:
            core.spawn(self._open_mailbox(self._mailbox), "mailbox")

    async def _open_mailbox(self, mailbox: MailboxTransport) -> None:
        while True:
            try:
                await mailbox.start(self._engine.mailbox_event)
            except MeshError as exc:
                logger.info("agent=%s: no mailbox now: %s", self._engine.core.name, exc)
                await asyncio.sleep(RETRY_S)
            else:
                self._engine.core.mailbox = mailbox
                return

    async def aclose(self) -> None:
        """Take the card away, and end the calls. Idempotent."""
        api, self._api = self._api, None
        if api is None:
            return
        if self._mailbox is not None:
            await self._mailbox.aclose()
        if self._registered:
            try:
                await api.deregister()
            except MeshError as exc:
                logger.debug("agent=%s: card not taken away: %s", self._engine.core.name, exc)
        await api.aclose()
