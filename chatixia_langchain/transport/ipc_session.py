"""What the agent knows while it is attached to a sidecar: its channels, their windows, its unanswered commands.

Lines come in batches from `IpcLink`; events go out to the sink; commands are matched to answers by whole-number ids.
A session lives as long as one connection to the socket. Owned by `SidecarTransport`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any

from ..errors import (
    Busy,
    InvalidLine,
    LinkDown,
    MeshError,
    MessageTooBig,
    PeerUnreachable,
    ProtocolMismatch,
    RegistryRefused,
    from_wire,
)
from ..protocol import ipc, ipc_fast
from ..protocol.limits import OLD_PEER_MAX_MESSAGE_BYTES, PROTOCOL, WINDOW_BYTES
from .base import PeerDown, PeerJoined, PeerLeft, PeerUp, Received, Sink
from .ipc_link import IpcLink

logger = logging.getLogger(__name__)

OVERHEAD_BYTES = 64  # what an unanswered send costs beside its bytes: bounds how many tiny ones can be unanswered
HELLO_S = 5.0
STALE_S = 2.0  # after the registry's list: peers known before and not in it are gone


def path_text(path: Any) -> str:
    """A channel's path for people: `{"local": "host", "remote": "srflx"}` is "host/srflx"."""
    if isinstance(path, dict):
        return f"{path.get('local', '?')}/{path.get('remote', '?')}"
    return path if isinstance(path, str) else ""


class _Channel:
    """An open channel. `unanswered` is what of our sends the sidecar has not answered yet, in bytes."""

    __slots__ = ("generation", "max_bytes", "prefix", "unanswered")

    def __init__(self, peer: str, generation: int, max_bytes: int) -> None:
        self.generation, self.max_bytes = generation, max_bytes
        self.prefix, self.unanswered = ipc_fast.send_prefix(peer), 0


class IpcSession:
    """One attachment to a sidecar. `online` is shared with the sessions before and after it."""

    def __init__(self, emit: Sink, online: dict[str, PeerJoined], on_hello: Callable[[IpcSession], None]) -> None:
        self._emit, self.online, self._on_hello = emit, online, on_hello
        self._loop = asyncio.get_running_loop()
        self.link = IpcLink(self._on_lines, self._on_lost, self._wake_all)
        self.channels: dict[str, _Channel] = {}
        self.hello: ipc.HelloPayload | None = None
        self.signaling = ipc.SignalingPayload("connecting")
        self.registered: asyncio.Future[str] = self._loop.create_future()  # our peer id, once it is known
        self.lost: asyncio.Future[str] = self._loop.create_future()  # why the connection ended
        self.redial: set[str] = set()  # had a channel when the sidecar before this one died: dialled once it is online
        self.was_open: set[str] = set()  # set when the connection is lost
        self.failed_sends = 0
        self._window = WINDOW_BYTES
        self._ids = itertools.count(1)
        self._sends: dict[int, tuple[_Channel, int]] = {}  # bounded by the windows
        self._answers: dict[int, asyncio.Future[ipc.Event]] = {}  # one per waiting caller
        self._dials: dict[str, asyncio.Future[None]] = {}  # one per peer that is being dialled
        self._dial_ids: dict[int, str] = {}
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._stale: set[str] = set(online)
        self._refusal: MeshError | None = None

    async def say_hello(self) -> ipc.HelloPayload:
        """Exchange hellos. Raises ProtocolMismatch or LinkDown."""
        try:
            answer = await self.command(ipc.hello, timeout_s=HELLO_S)
        except (LinkDown, TimeoutError) as exc:
            raise self._refusal or LinkDown(f"no hello from the sidecar: {exc or 'no answer'}") from exc
        if not isinstance(answer, ipc.HelloAnswer):
            raise LinkDown(f"the sidecar answered hello with {type(answer).__name__}")
        if answer.payload.protocol != PROTOCOL:
            raise ProtocolMismatch(
                f"the sidecar speaks protocol {answer.payload.protocol}, this side speaks {PROTOCOL}"
            )
        return answer.payload

    def _greeted(self, hello: ipc.HelloPayload) -> None:
        # At once and not in `say_hello`: what follows in the same batch are channels that must be usable.
        if hello.protocol == PROTOCOL and self.hello is None:
            self.hello = hello
            self._window = hello.window_bytes or WINDOW_BYTES
            self._on_hello(self)

    def send(self, peer: str, body: bytes) -> None:
        """See `Transport.send`."""
        channel = self.channels.get(peer)
        if channel is None:
            raise PeerUnreachable(peer)
        size = len(body)
        if size > channel.max_bytes:
            raise MessageTooBig(size, channel.max_bytes)
        if b"\n" in body or b"\r" in body or body[:1] != b"{":
            raise InvalidLine("a message is one JSON object on one line")  # a line end could forge IPC lines
        size += OVERHEAD_BYTES
        if channel.unanswered + size > self._window or self.link.full:
            raise Busy(f"the window to {peer!r} is full")
        number = next(self._ids)
        channel.unanswered += size
        self._sends[number] = (channel, size)
        self.link.write(b"".join((ipc_fast.SEND_HEAD, b"%d" % number, channel.prefix, body, ipc_fast.SEND_TAIL)))

    async def writable(self, peer: str) -> None:
        """See `Transport.writable`."""
        while (channel := self.channels.get(peer)) and (channel.unanswered > self._window // 2 or self.link.full):
            waiter = self._loop.create_future()
            self._waiters.setdefault(peer, []).append(waiter)
            await waiter

    async def connect(self, peer: str, timeout_s: float) -> None:
        """See `Transport.connect`."""
        if peer in self.channels:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._dial(peer))
        except TimeoutError:
            raise PeerUnreachable(peer, f"no channel within {timeout_s:g} s") from None

    def _dial(self, peer: str) -> asyncio.Future[None]:
        dial = self._dials.get(peer)
        if dial is None:
            dial = self._dials[peer] = self._loop.create_future()
            dial.add_done_callback(lambda f: f.cancelled() or f.exception())  # its error is told even if nobody waits
            number = next(self._ids)
            self._dial_ids[number] = peer
            self.link.write(ipc.encode(ipc.Connect(ipc.TargetRequest(peer), id=number)))
        return dial

    async def command(self, make: Any, *, timeout_s: float) -> ipc.Event:
        """Send the line `make(id)`, return its answer. Raises LinkDown, TimeoutError or what the sidecar answered."""
        number = next(self._ids)
        answer: asyncio.Future[ipc.Event] = self._loop.create_future()
        self._answers[number] = answer
        if self.lost.done():
            answer.set_exception(LinkDown(self.lost.result()))
        self.link.write(make(number))
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        finally:
            self._answers.pop(number, None)

    def _on_lines(self, lines: list[bytes]) -> None:
        emit, split, ok_id, sends = self._emit, ipc_fast.split_message, ipc_fast.ok_id, self._sends
        for line in lines:
            cut = split(line)
            if cut is not None:
                emit(Received(cut[0].decode("ascii", "replace"), cut[1]))
                continue
            number = ok_id(line)
            if number is not None and number in sends:
                self._answered(number)
                continue
            try:
                self._on_event(ipc.decode_event(line))
            except InvalidLine as exc:
                logger.warning("a line of the sidecar was not understood: %s", exc)

    def _answered(self, number: int) -> None:
        channel, size = self._sends.pop(number)
        before = channel.unanswered
        channel.unanswered = before - size
        if self._waiters and channel.unanswered <= self._window // 2 < before:
            self._wake_all()

    def _on_event(self, event: ipc.Event) -> None:
        match event:
            case ipc.Message():
                self._emit(Received(event.payload.from_peer, bytes(event.payload.message)))
            case ipc.PeerConnected(payload=up):
                self._peer_up(up)
            case ipc.PeerDisconnected(payload=down):
                channel = self.channels.get(down.peer_id)
                if channel and down.generation in (0, channel.generation):
                    self._peer_down(down.peer_id, down.reason)
            case ipc.PeerJoined(payload=who):
                self._joined(PeerJoined(who.peer_id, who.fingerprint or "", who.protocol or 0))
            case ipc.PeerLeft(payload=who):
                if self.online.pop(who.peer_id, None) is not None:
                    self._emit(PeerLeft(who.peer_id))
            case ipc.Signaling(payload=state):
                self._signaling(state)
            case ipc.Error():
                self._error(event)
            case _:
                if isinstance(event.id, int):
                    self._settle(event.id, event)

    def _settle(self, number: int, event: ipc.Event) -> None:
        if number in self._sends:
            self._answered(number)
        elif number in self._dial_ids:
            self._dial_ids.pop(number)  # the peer_connected beside this answer ends the dial
        elif (answer := self._answers.get(number)) and not answer.done():
            answer.set_result(event)
            if isinstance(event, ipc.HelloAnswer):
                self._greeted(event.payload)

    def _error(self, event: ipc.Error) -> None:
        fault, number = event.payload, event.id
        if not isinstance(number, int):
            logger.warning("the sidecar reports %s: %s", fault.code, fault.message)
            if self.hello is None:  # "busy": another agent is attached
                self._refusal = LinkDown(f"the sidecar refuses: {fault.message}", code=fault.code)
            return
        if number in self._sends:
            self.failed_sends += 1  # best effort: what was lost is sent again by delivery
            logger.debug("send id=%s failed: %s %s", number, fault.code, fault.message)
            self._answered(number)
        elif number in self._dial_ids:
            peer = self._dial_ids.pop(number)
            self._end_dial(peer, PeerUnreachable(peer, fault.message or fault.code))
        elif (answer := self._answers.get(number)) and not answer.done():
            answer.set_exception(
                ProtocolMismatch(fault.message)
                if fault.code == ProtocolMismatch.code
                else from_wire(fault.code, fault.message, retryable=fault.retryable, executed=fault.executed)
            )

    def _peer_up(self, up: ipc.ConnectedPayload) -> None:
        peer = up.peer_id
        if peer in self.channels:
            self._peer_down(peer, "replaced by a newer connection")
        limit = up.max_message_bytes or OLD_PEER_MAX_MESSAGE_BYTES
        if self.hello is not None:
            limit = min(limit, self.hello.max_message_bytes)
        self.channels[peer] = _Channel(peer, up.generation, limit)
        self._emit(PeerUp(peer, up.generation, up.protocol, limit, up.fingerprint, path_text(up.path)))
        self._end_dial(peer, None)

    def _peer_down(self, peer: str, reason: str) -> None:
        channel = self.channels.pop(peer)
        self._wake(peer)
        self._emit(PeerDown(peer, channel.generation, reason))

    def _end_dial(self, peer: str, error: MeshError | None) -> None:
        dial = self._dials.pop(peer, None)
        if dial is None or dial.done():
            return
        if error:
            dial.set_exception(error)
        else:
            dial.set_result(None)

    def _joined(self, who: PeerJoined) -> None:
        self._stale.discard(who.peer)
        if self.online.get(who.peer) != who:
            self.online[who.peer] = who
            self._emit(who)
        if who.peer in self.redial:
            self.redial.discard(who.peer)
            if who.peer not in self.channels:
                self._dial(who.peer)

    def _signaling(self, state: ipc.SignalingPayload) -> None:
        if state != self.signaling:
            logger.info("registry: %s %s", state.state, state.reason or "")
        self.signaling = state
        if state.state == "connected" and self._stale:
            self._loop.call_later(STALE_S, self._drop_stale)
        if self.registered.done():
            return
        if state.state == "connected":
            self.registered.set_result(state.peer_id)
        elif state.state == "refused":
            self.registered.set_exception(
                RegistryRefused(f"the registry refuses us: {state.reason or 'no reason given'}")
            )

    def _drop_stale(self) -> None:
        stale, self._stale = self._stale, set()
        for peer in stale:
            if not self.lost.done() and self.online.pop(peer, None) is not None:
                self._emit(PeerLeft(peer))

    def _wake(self, peer: str) -> None:
        for waiter in self._waiters.pop(peer, ()):
            if not waiter.done():
                waiter.set_result(None)

    def _wake_all(self) -> None:
        for peer in list(self._waiters):
            self._wake(peer)

    def _on_lost(self, reason: str) -> None:
        if self.lost.done():
            return
        self.lost.set_result(reason)
        self.was_open = set(self.channels) | self.redial
        for peer in list(self.channels):
            self._peer_down(peer, reason)
        error = LinkDown(reason)
        for peer in list(self._dials):
            self._end_dial(peer, error)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)
        if not self.registered.done():
            self.registered.set_exception(error)
            self.registered.exception()  # told, even when nobody waits for it
        self._sends.clear()
        self._wake_all()
