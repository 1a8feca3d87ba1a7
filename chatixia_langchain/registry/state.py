"""All that one registry knows, and the few rules that need several parts of it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Iterable
from typing import Final

import msgspec

from .audit import Audit
from .auth import Keyring, Tokens, Unauthorized, may_act_as
from .bell import Bell
from .directory import Agent, Directory
from .keys import Identity
from .limits import Buckets
from .pairing import Pairing
from .settings import RegistrySettings
from .sockets import Sockets
from .store import MemoryStore, SqliteStore, Store, StoreError
from .tasks import Task, Tasks

logger = logging.getLogger(__name__)
WRONG_PER_S: Final = 5 / 60  # refused credentials of one address; past it the answer is 429. A right key still works
WRONG_BURST: Final = 30.0
SWEEP_S: Final = 0.5  # how late a lease, a deadline or a withdrawn key may be noticed


class Registry:
    """Made once per server. All methods run on the server's loop."""

    def __init__(self, settings: RegistrySettings, keyring: Keyring, store: Store | None = None) -> None:
        self.settings, self.keyring = settings, keyring
        self.store = store or (SqliteStore(settings.db) if settings.db else MemoryStore())
        self.tokens = Tokens(settings.token_secret.reveal())
        self.bell = Bell()
        self.audit = Audit(settings.audit_log)
        self.sockets = Sockets(self._sidecar_left, self.audit)
        try:
            self.directory = Directory(self.store, self.sockets.relay.is_online)
            self.tasks = Tasks(self.store)
            self.pairing = Pairing(self.store)
        except (msgspec.MsgspecError, sqlite3.Error) as exc:
            raise StoreError(f"database {settings.db} holds what this version cannot read: {exc}") from exc
        self.wrong_credentials = Buckets(per_s=WRONG_PER_S, burst=WRONG_BURST)
        self._epoch = time.time() - time.monotonic()

    def now(self) -> float:
        """Epoch seconds that never jump: the clock of the start, carried on by the monotonic one."""
        return self._epoch + time.monotonic()

    def skip(self, seconds: float) -> None:
        """Move this registry's clock forward: for tests of leases and deadlines."""
        self._epoch += seconds

    def identify(self, headers: dict[bytes, bytes]) -> Identity:
        """Who sent these (lower-case) headers. Raises Unauthorized."""
        bearer = headers.get(b"authorization", b"").decode("latin-1")
        if bearer:
            kind, _, token = bearer.partition(" ")
            if kind.lower() != "bearer":
                raise Unauthorized("the Authorization header must be: Bearer <token>")
            return self.check_token(token.strip())
        return self.identify_key(headers)

    def identify_key(self, headers: dict[bytes, bytes]) -> Identity:
        """Who owns the API key or device token in these headers. Raises Unauthorized."""
        key, device = headers.get(b"x-api-key", b""), headers.get(b"x-device-token", b"")
        if key:
            who = self.keyring.find(key.decode("latin-1"), time.time())
        elif device:
            who = self.pairing.find(device.decode("latin-1"))
        else:
            raise Unauthorized("no credential: send Authorization: Bearer <token>, x-api-key or x-device-token")
        if who is None:
            raise Unauthorized("the key is not known here")
        return who

    def check_token(self, token: str) -> Identity:
        """Who a JWT belongs to; a withdrawn key or device ends its tokens too. Raises Unauthorized."""
        who = self.tokens.check(token, time.time())
        if not self.is_valid(who.key_id):
            raise Unauthorized("the credential behind this token was withdrawn")
        return who

    def is_valid(self, key_id: str) -> bool:
        """True while the key or device called `key_id` is accepted."""
        return self.keyring.has_key(key_id, time.time()) or self.pairing.has_device(key_id)

    def may_speak_for(self, who: Identity, agent_id: str) -> bool:
        """True when `who` may heartbeat, submit and claim as `agent_id`."""
        owner = self.directory.owner(agent_id)
        return may_act_as(who, agent_id, owner=owner, is_reserved=self._is_reserved(agent_id))

    def may_register(self, who: Identity, agent_id: str) -> bool:
        """True when `who` may create or change the record of `agent_id`: an own name, or a free one of nobody's."""
        is_free = self.directory.owner(agent_id) is None and not self._is_reserved(agent_id)
        return is_free or self.may_speak_for(who, agent_id)

    def _is_reserved(self, agent_id: str) -> bool:
        names = (agent_id, f"{agent_id}-sidecar")
        return any(self.keyring.has_peer(n) or self.pairing.has_peer(n) for n in names)

    def names_of(self, who: Identity, agent_id: str) -> tuple[str, ...]:
        """The addresses that reach `agent_id` of `who`."""
        return tuple(dict.fromkeys((agent_id, who.peer_id)))

    def skills_of(self, agent_id: str) -> list[str]:
        """What the directory says `agent_id` can do."""
        agent = self.directory.get(agent_id)
        return agent.skills() if agent else []

    def may_see(self, who: Identity, task: Task) -> bool:
        """True for who asked, who has it, and who it is for."""
        target = task.target_agent_id
        return (
            who.is_admin
            or who.peer_id in (task.source_peer, task.claimer_peer)
            or (bool(target) and (target == who.peer_id or self.may_speak_for(who, target)))
        )

    def announce(self, changed: Iterable[Task]) -> None:
        """Wake who waits for these tasks: to claim them, or for their outcome."""
        for task in changed:
            self.bell.ring(task.queue if task.state == "pending" else f"task:{task.id}")

    def peer_of(self, agent: Agent) -> str:
        """The peer id to show for an agent."""
        return self.directory.online_as(agent) or agent.owner

    async def sweep(self) -> None:
        """Let time pass, for ever: leases, deadlines, forgotten agents."""
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                self.keyring.refresh()
                self.revoke()
                changed = self.tasks.expire(self.now())
                self.announce(changed)
                for task in changed:
                    self.audit.note("task_by_time", task=task.id, state=task.state, attempt=task.attempts)
                self.directory.expire(self.now())
            except Exception:  # the sweep must survive: without it no lease ever ends
                logger.exception("the sweep failed; it goes on")

    def revoke(self) -> None:
        """Hang up on every socket whose credential is no longer valid."""
        self.sockets.apply(self.sockets.relay.revoke(self.is_valid))

    def _sidecar_left(self, peer_id: str) -> None:
        self.directory.sidecar_left(peer_id, self.now())
