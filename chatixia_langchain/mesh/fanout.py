"""One question to many agents: scatter, gather, and do not wait for those who are not needed.

- `choose` says whom to ask: those named, or those whose card has a skill
- `gather` asks all at once; each peer's failure is its own result and spoils no other
- with a quorum the rest is cancelled, here and at the peers, once enough good replies are there
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping

from ..errors import Cancelled, MeshError
from .types import Peer, Reply

Result = Reply | MeshError
_NEARNESS = {"connected": 0, "online": 1, "offline": 2}


def choose(peers: Mapping[str, Peer], to: Iterable[str] | None, skill: str | None, k: int | None) -> list[str]:
    """Whom to ask: `to`, else everyone who is there; of them those whose card has `skill`; at most `k`.

    Those with an open channel come first. Raises ValueError for a `k` under 1.
    """
    if k is not None and k < 1:
        raise ValueError(f"k is {k}, it must be 1 or more")
    if to is not None:
        names = several(to)
    else:
        there = [p for p in peers.values() if p.state != "offline"]
        names = [p.id for p in sorted(there, key=lambda p: (_NEARNESS[p.state], p.id))]
    if skill is not None:
        names = [name for name in names if name in peers and has_skill(peers[name], skill)]
    return names[:k]


def several(to: Iterable[str]) -> list[str]:
    """Names that a caller gave, each once. Raises TypeError for one str, which would be taken for its letters."""
    if isinstance(to, str):
        raise TypeError(f"to is the str {to!r}, it must be several names")
    return list(dict.fromkeys(to))


def has_skill(peer: Peer, skill: str) -> bool:
    """True when the peer's card has a skill of that name."""
    return any(entry.get("name") == skill for entry in peer.skills)


def share_id(message_id: str | None, peer: str) -> str | None:
    """The message id of one peer's share, always the same for the same `message_id`."""
    return message_id and hashlib.sha256(f"{message_id}\0{peer}".encode()).hexdigest()[:32]


async def gather(ask: Callable[[str], Awaitable[Reply]], names: Iterable[str], quorum: int | None) -> dict[str, Result]:
    """Ask all `names` at once; return when all have answered or failed, or `quorum` good replies are there.

    A reply that only says what its agent waits for counts for no quorum. Cancelling cancels all.
    """
    tasks = {name: asyncio.create_task(_one(ask, name), name=f"mesh-ask-many {name}") for name in names}
    waiting = set(tasks.values())
    good = 0
    try:
        while waiting and (quorum is None or good < quorum):
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            good += sum(isinstance(r := task.result(), Reply) and not r.interrupts for task in done)
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
    return {name: _result(task) for name, task in tasks.items()}


async def _one(ask: Callable[[str], Awaitable[Reply]], name: str) -> Result:
    try:
        return await ask(name)
    except MeshError as exc:
        return exc
    except ValueError as exc:
        return MeshError(str(exc), code="invalid_line", executed="no")


def _result(task: asyncio.Task[Result]) -> Result:
    return Cancelled("enough others had answered") if task.cancelled() else task.result()
