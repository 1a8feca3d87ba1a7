"""The one owner task of a mesh: it enters everything, waits for the word to stop, and leaves everything in order."""

from __future__ import annotations

import asyncio
import logging
import os

from ..config import MeshConfig
from ..errors import MeshClosed
from ..transport.base import Transport
from ..transport.choose import make_transport
from .engine import Engine
from .local_hub import HUB
from .portal import Portal
from .second_path import SecondPath

logger = logging.getLogger(__name__)


class Lifetime:
    """Start and end of one mesh. `engine` is set by `start`, and stays after the end: calls then raise MeshClosed."""

    def __init__(self, config: MeshConfig, transport: Transport | None) -> None:
        self._config, self._given = config, transport
        self.engine: Engine | None = None
        self.portal: Portal | None = None
        self.why = "given by the caller" if transport is not None else ""
        self.second: SecondPath | None = None
        self._stop: asyncio.Event | None = None
        self._owner: asyncio.Task[None] | None = None
        self.closed = False

    async def start(self) -> None:
        """Start the owner task, and return when it is in."""
        if self.closed or self._owner is not None:
            state = "closed" if self.closed else "started"
            raise MeshClosed(f"the mesh of {self._config.name!r} was already {state}: make a new one", executed="no")
        self.portal = Portal()
        self._stop = asyncio.Event()
        ready: asyncio.Future[None] = self.portal.loop.create_future()
        self._owner = self.portal.loop.create_task(self._own(ready), name=f"mesh {self._config.name}")
        try:
            await asyncio.shield(ready)
        except asyncio.CancelledError:
            await self._end()
            raise

    async def aclose(self) -> None:
        """End it and wait until it is out. Any task, loop or thread; any number of times."""
        self.closed = True
        portal = self.portal
        if portal is None or self._owner is None:
            return
        if portal.here:
            await self._end()
        elif portal.loop.is_running():
            await portal.call(self._end)

    async def _end(self) -> None:
        assert self._stop is not None
        assert self._owner is not None
        self.closed = True
        self._stop.set()
        if asyncio.current_task() is not self._owner:
            await asyncio.wait([self._owner])

    async def _own(self, ready: asyncio.Future[None]) -> None:
        assert self._stop is not None
        transport: Transport | None = None
        fault: BaseException = MeshClosed("closed while it was starting", executed="no")
        try:
            _prepare(self._config)
            transport = self._make()
            transport.card = self._config.card()
            self.engine = Engine(self._config, transport)
            self.second = SecondPath(self._config, self.engine)
            starting = asyncio.ensure_future(self._join(transport, self.engine, self.second))
            stop = asyncio.ensure_future(self._stop.wait())
            try:
                await asyncio.wait([starting, stop], return_when=asyncio.FIRST_COMPLETED)
                if not starting.done():  # closed while it was starting
                    raise MeshClosed("closed while it was starting", executed="no")
                starting.result()
                ready.set_result(None)
                await stop
            finally:
                for waiting in (starting, stop):
                    waiting.cancel()
                await asyncio.gather(starting, stop, return_exceptions=True)
        except asyncio.CancelledError:
            raise
        except BaseException as exc:
            while isinstance(exc, BaseExceptionGroup):
                exc = exc.exceptions[0]
            if ready.done():
                logger.exception("agent=%s: the mesh failed", self._config.name)
            fault = exc
        finally:
            await self._leave(transport)
            if not ready.done():
                ready.set_exception(fault)  # after everything is left: who sees the error may start anew at once

    async def _join(self, transport: Transport, engine: Engine, second: SecondPath) -> None:
        core = engine.core
        async with asyncio.TaskGroup() as group:
            started = group.create_task(transport.start(engine.event))
            group.create_task(second.register())
        core.info = started.result()
        core.name = core.info.peer_id or core.name
        core.link_up = True
        second.start()
        logger.info("agent=%s: joined over %s", core.name, transport.name)

    async def _leave(self, transport: Transport | None) -> None:
        engine = self.engine
        if engine is not None:
            engine.fail_all()
            if transport is not None and engine.core.link_up:
                await engine.linger()
            engine.drop_all()
            await engine.core.stop()
        if self.second is not None:
            await self.second.aclose()
        if transport is not None:
            await transport.aclose()

    def _make(self) -> Transport:
        if self._given is not None:
            return self._given
        transport = make_transport(self._config, hub=HUB)
        self.why = transport.why
        return transport


def _prepare(config: MeshConfig) -> None:
    """Make the folder for what must outlive the process, and the key in it.

    Raises OSError naming what is impossible, ValueError for a key file that is none.
    """
    folder = config.state_dir
    if not folder:
        return
    try:
        os.makedirs(folder, mode=0o700)
    except FileExistsError:
        if not os.path.isdir(folder):
            raise
        if os.stat(folder).st_mode & 0o077:  # it is the user's: say so, and leave it as it is
            logger.warning("state_dir=%s: others may look into this folder; chmod 700 would keep them out", folder)
    from ..identity import Identity  # its library is for those who keep a key

    Identity.load(config.identity_file)  # made here, for whichever transport uses it
