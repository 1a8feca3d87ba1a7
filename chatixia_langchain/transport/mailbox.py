"""The mailbox: messages through the registry's task queue, for peers without a direct way to each other.

- `send` queues; one task per peer posts in order, so that a full mailbox of one peer holds up nobody else;
- what waits for us comes by long poll (`claim`), is handed to the sink, then marked completed;
- peers are the agents of the directory that show life; with `presence=False` that is left to somebody else, and the
  transport is a second path beside a channel: `send` then takes any peer.

Best effort like every transport: a message that cannot be posted for a minute is dropped and logged; delivery resends.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Coroutine
from typing import Any

import msgspec

from ..config import MeshConfig
from ..errors import Busy, InvalidLine, LinkDown, MeshError, MessageTooBig, PeerUnreachable
from ..protocol.limits import MAX_MESSAGE_BYTES, is_peer_id
from .base import LinkState, Received, Sink, Transport, TransportInfo
from .mailbox_out import Outgoing, Queues
from .mailbox_peers import MailboxPeers
from .registry_api import RegistryApi

logger = logging.getLogger(__name__)

SKILL = "chatixia.mesh"
CLAIM_WAIT_S = 25.0
CLAIM_MAX = 64
PAUSE_MIN_S, PAUSE_MAX_S = 0.25, 5.0  # after a failed call
TTL_S = 300.0
_TTL_MS = re.compile(rb'"ttl_ms":([0-9]{1,9})[,}]')


def task_for(me: str, item: Outgoing) -> dict[str, Any]:
    """The task that carries `item`. Its body goes as text: the receiver gets the very bytes.

    The id is of this posting, for its retries: a later resend of the same message is another task, since what became of
    the first one's receiver is not known here.
    """
    found = _TTL_MS.search(item.body, max(0, len(item.body) - 1024))
    ttl_s = max(1.0, int(found[1]) / 1000) if found else TTL_S
    payload = {"mesh_message": item.body.decode()}
    target = {"target_agent_id": item.peer, "source_agent_id": me}
    return target | {"skill": SKILL, "payload": payload, "ttl": min(ttl_s, 3600.0), "id": item.key}


def body_of(task: dict[str, Any]) -> tuple[str, bytes]:
    """Sender and body of a claimed task. Raises InvalidLine when it is not a mesh message."""
    if task.get("skill") != SKILL:
        raise InvalidLine(f"skill {str(task.get('skill'))[:80]!r} is not served by the mailbox")
    source, payload = task.get("source_agent_id"), task.get("payload")
    message = payload.get("mesh_message") if isinstance(payload, dict) else None
    if not isinstance(source, str) or not is_peer_id(source):
        raise InvalidLine("source_agent_id is not a peer id")
    if isinstance(message, dict):
        body = msgspec.json.encode(message)
    elif isinstance(message, str):
        body = message.encode()
    else:
        raise InvalidLine("payload.mesh_message is missing")
    if len(body) > MAX_MESSAGE_BYTES or body[:1] != b"{" or b"\n" in body or b"\r" in body:
        raise InvalidLine("payload.mesh_message is not one JSON object on one line within the size limit")
    return source, body


class MailboxTransport(Transport):
    """Peers through the registry. `api` is shared when given, and then not closed here."""

    name = "mailbox"

    def __init__(
        self, config: MeshConfig, api: RegistryApi | None = None, *, presence: bool = True, poll_s: float = 5.0
    ) -> None:
        if not config.registry:
            raise ValueError("transport 'mailbox' needs registry=")
        self._config, self._given_api = config, api
        self._presence, self._poll_s = presence, poll_s
        self._sink: Sink | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._posted = self._received = self._dropped = 0
        self._link_up = False

    async def start(self, sink: Sink) -> TransportInfo:
        """See `Transport.start`. Raises RegistryRefused, LinkDown."""
        self._api = self._given_api or RegistryApi(self._config)
        self._queues = Queues(self._post)
        self._peers = MailboxPeers(self._config.name, self._emit)
        self._sink = sink
        try:
            await self._api.token()
            if self._presence:
                await self._api.register()
            self._set_link(True)
            if self._presence:
                self._peers.update(await self._api.directory())
                self._spawn(self._api.keep_registered(), "register")
                self._spawn(self._watch_directory(), "directory")
            self._spawn(self._receive(), "receive")
        except BaseException:
            await self.aclose()
            raise
        return TransportInfo(self.name, self._config.name)

    def send(self, peer: str, body: bytes) -> None:
        """See `Transport.send`. Returning means: queued here, in order per peer."""
        if self._sink is None:
            raise LinkDown("this transport is closed")
        if self._presence and peer not in self._peers.up:
            raise PeerUnreachable(peer, "not in the directory")
        if len(body) > MAX_MESSAGE_BYTES:
            raise MessageTooBig(len(body), MAX_MESSAGE_BYTES)
        if body[:1] != b"{" or b"\n" in body or b"\r" in body:
            raise InvalidLine("a message is one JSON object on one line")
        self._queues.put(Outgoing(peer, bytes(body), secrets.token_hex(8)))

    async def writable(self, peer: str) -> None:
        """See `Transport.writable`."""
        await self._queues.room(peer)

    async def connect(self, peer: str, *, timeout_s: float = 15.0) -> None:
        """See `Transport.connect`: there is no channel, only the question whether the directory knows the peer."""
        if self._sink is None:
            raise LinkDown("this transport is closed")
        if not self._presence:
            return
        self._peers.wanted(peer)
        if peer in self._peers.up:
            return
        try:
            async with asyncio.timeout(timeout_s):
                self._peers.update(await self._api.directory())
        except TimeoutError:
            raise PeerUnreachable(peer, f"no answer from the registry within {timeout_s:g} s") from None
        if peer not in self._peers.up:
            raise PeerUnreachable(peer, "not in the directory")

    async def disconnect(self, peer: str) -> None:
        """See `Transport.disconnect`. Nothing to close: the peer counts as down here until `connect`."""
        self._peers.unwanted(peer)

    async def status(self) -> dict[str, Any]:
        """See `Transport.status`."""
        peers = {p: {"state": "open", "path": "mailbox", "rtt_ms": None} for p in sorted(self._peers.up)}
        numbers = {"posted": self._posted, "received": self._received, "dropped": self._dropped}
        link = "up" if self._link_up else "down"
        return {"transport": self.name, "link": link, "queued": self._queues.queued(), "peers": peers} | numbers

    async def aclose(self) -> None:
        """See `Transport.aclose`. What is still queued is dropped."""
        was_open, self._sink = self._sink is not None, None
        if not was_open:
            return
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, self._queues.aclose(), return_exceptions=True)
        try:
            if self._presence and self._link_up:
                await self._api.deregister()
        except MeshError as exc:
            logger.debug("agent=%s: not taken out of the directory: %s", self._config.name, exc)
        finally:
            if self._given_api is None:
                await self._api.aclose()

    def _spawn(self, job: Coroutine[Any, Any, None], what: str) -> None:
        task = asyncio.create_task(job, name=f"mailbox-{what}-{self._config.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _set_link(self, up: bool, reason: str = "") -> None:
        if up == self._link_up:
            return
        self._link_up = up
        if not up:
            self._peers.all_down(reason)
        self._emit(LinkState(up, reason, self._config.name))
        if up and self._presence and self._tasks:  # it is back, and may have lost its memory
            self._spawn(self._register_again(), "register-again")

    async def _register_again(self) -> None:
        try:
            await self._api.register()
        except MeshError as exc:
            logger.debug("agent=%s: not registered again: %s", self._config.name, exc)

    async def _post(self, item: Outgoing) -> None:
        await self._api.submit(task_for(self._config.name, item))
        self._posted += 1

    async def _receive(self) -> None:
        pause = PAUSE_MIN_S
        while True:
            try:
                # A short question first after a failure: an answered long poll would tell of the return 25 s late.
                tasks = await self._api.claim(wait_s=CLAIM_WAIT_S if self._link_up else 0, limit=CLAIM_MAX)
                self._set_link(True)
                pause = PAUSE_MIN_S
                async with asyncio.TaskGroup() as group:  # at most CLAIM_MAX calls
                    for task in tasks:
                        self._take(task, group)
            except MeshError as exc:
                logger.debug("agent=%s: claim failed: %s", self._config.name, exc)
                if not isinstance(exc, Busy):
                    self._set_link(False, str(exc))
                await asyncio.sleep(pause)
                pause = min(pause * 2, PAUSE_MAX_S)

    def _take(self, task: dict[str, Any], group: asyncio.TaskGroup) -> None:
        error = ""
        try:
            source, body = body_of(task)
        except InvalidLine as exc:
            logger.warning("task=%s is refused: %s", task.get("id"), exc)
            error = str(exc)
        else:
            self._received += 1
            self._emit(Received(source, body))
        group.create_task(self._finish(str(task.get("id", "")), error))

    async def _finish(self, task_id: str, error: str) -> None:
        try:
            await self._api.finish(task_id, error=error)
        except MeshError as exc:  # it comes again after its lease; delivery knows the message by its id
            logger.debug("task=%s: outcome not told: %s", task_id, exc)

    async def _watch_directory(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                records = await self._api.directory()
            except MeshError as exc:
                logger.debug("agent=%s: directory: %s", self._config.name, exc)
                continue
            if self._link_up:
                self._peers.update(records)
