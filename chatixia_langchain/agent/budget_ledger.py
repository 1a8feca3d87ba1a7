"""`BudgetLedger`: what peers have used here, counted on this side. Pure; `now` is monotonic seconds.

- per root request: turns, tokens and seconds. A root is a name a peer gives: telling a fresh one for each message
  gains nothing, since
- per peer: turns per minute, whatever roots they name;
- per conversation: the same text again and again.

All tables are bounded, and what was used least recently is forgotten. What is refused is not noted: to make us forget
a root takes more fresh roots than the limit per peer lets one peer name within an hour.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..errors import Busy, MeshError
from ..mesh.budget import Budget
from ..mesh.types import Incoming
from .policy import InboundPolicy

MAX_ROOTS = 8192  # about 1 MiB
MAX_PEERS = 1024
MAX_CONVERSATIONS = 8192
REPEAT_WINDOW_S = 600.0  # a loop repeats itself at once; a question asked every morning is none

K = TypeVar("K")
T = TypeVar("T")


@dataclass(slots=True)
class _Root:
    began: float
    turns: int = 0
    tokens: int = 0


@dataclass(slots=True)
class _Rate:
    """A bucket of turns that fills evenly."""

    left: float
    at: float


@dataclass(slots=True)
class _Said:
    digest: bytes
    times: int
    at: float


class BudgetLedger:
    """Counts the turns of peers against an `InboundPolicy`. Not for several threads at once."""

    def __init__(self, policy: InboundPolicy) -> None:
        self._policy = policy
        self._roots: OrderedDict[str, _Root] = OrderedDict()
        self._rates: OrderedDict[str, _Rate] = OrderedDict()
        self._said: OrderedDict[tuple[str, str], _Said] = OrderedDict()

    def admit(self, batch: Sequence[Incoming], now: float) -> tuple[list[Incoming], list[tuple[Incoming, MeshError]]]:
        """Sort the messages of one turn into those that start it and those refused, each with why.

        The turn counts once for the peer, and once for each root request in it; what is refused counts for nothing.
        """
        taken: list[Incoming] = []
        refused: list[tuple[Incoming, MeshError]] = []
        roots: set[str] = set()
        for message in batch:
            why = self._take(message, now, roots)
            if why is None:
                taken.append(message)
            else:
                refused.append((message, why))
        return taken, refused

    def _take(self, message: Incoming, now: float, roots: set[str]) -> MeshError | None:
        """Count a message, or say why not. `roots`: those that the turn was counted for already."""
        name, place = root_of(message), (message.peer, message.conversation)
        said, rate = self._text(message, place, now), self._rate(message.peer, now)
        root = self._roots.get(name) or _Root(now)
        refused = self._repeated(message, said)
        if refused is None and not roots:
            refused = self._over_rate(message, rate)
        if refused is None and name not in roots:
            refused = self._over_budget(message, root, now)
        if refused is not None:
            return refused
        rate.left -= not roots
        root.turns += name not in roots
        roots.add(name)
        _keep(self._roots, name, root, MAX_ROOTS)
        if said is not None:
            said.times += 1
            _keep(self._said, place, said, MAX_CONVERSATIONS)
        return None

    def budget(self, message: Incoming, now: float) -> Budget:
        """What the root request of a message that was just admitted had left: the least of what the asker says and
        what we count. Its own turn is not taken off yet.
        """
        root, asked, policy = self._roots.get(root_of(message)) or _Root(now, 1), message.budget, self._policy
        turns, tokens = policy.max_turns - root.turns + 1, policy.max_tokens - root.tokens
        ms = int((policy.max_seconds - (now - root.began)) * 1000)
        if asked is not None:
            turns, tokens, ms = min(turns, asked.turns), min(tokens, asked.tokens), min(ms, asked.ms)
        return Budget(root_of(message), max(0, turns), max(0, tokens), max(0, ms))

    def spent(self, root: str, tokens: int) -> None:
        """Count tokens that a turn of `root` used, nested asks included."""
        entry = self._roots.get(root)
        if entry is not None:
            entry.tokens += tokens

    def _rate(self, peer: str, now: float) -> _Rate:
        most = self._policy.max_turns_per_minute
        rate = self._rates.get(peer) or _Rate(most, now)
        _keep(self._rates, peer, rate, MAX_PEERS)
        rate.left, rate.at = min(most, rate.left + (now - rate.at) * most / 60), now
        return rate

    def _text(self, message: Incoming, place: tuple[str, str], now: float) -> _Said | None:
        if "resume" in message.meta:  # the answer to a pause has no text of its own
            return None
        digest = hashlib.blake2b(f"{message.skill}\0{message.content}".encode("utf-8", "surrogatepass")).digest()
        said = self._said.get(place)
        if said is None or said.digest != digest or now - said.at > REPEAT_WINDOW_S:
            return _Said(digest, 0, now)
        said.at = now  # of refused ones too: a loop that goes on stays refused
        return said

    def _repeated(self, message: Incoming, said: _Said | None) -> MeshError | None:
        most = self._policy.max_repeats
        if said is None or said.times < most:
            return None
        why = f"{message.peer!r} has said the same {most} times in a row in this conversation, which is the limit"
        return MeshError(why, code="repeated", executed="no")

    def _over_rate(self, message: Incoming, rate: _Rate) -> MeshError | None:
        if rate.left >= 1:
            return None
        most = self._policy.max_turns_per_minute
        wait_s = (1 - rate.left) * 60 / most
        why = (
            f"{message.peer!r} has started {most} turns within a minute, which is the limit; the next in {wait_s:.1f} s"
        )
        return Busy(why, code="budget_exceeded")

    def _over_budget(self, message: Incoming, root: _Root, now: float) -> MeshError | None:
        policy, asked = self._policy, message.budget
        seconds = now - root.began
        if root.turns >= policy.max_turns:
            return _exceeded(message, f"{root.turns} turns, the limit here is {policy.max_turns}")
        if root.tokens >= policy.max_tokens:
            return _exceeded(message, f"{root.tokens} tokens, the limit here is {policy.max_tokens}")
        if seconds >= policy.max_seconds:
            return _exceeded(message, f"{seconds:.0f} s, the limit here is {policy.max_seconds:g} s")
        if asked is None:
            return None
        used_up = [what for what in ("turns", "tokens", "ms") if getattr(asked, what) <= 0]
        return _exceeded(message, f"all its {used_up[0]}, {message.peer!r} says") if used_up else None


def root_of(message: Incoming) -> str:
    """The root of a message: what its budget says, else itself."""
    return message.budget.root if message.budget is not None else message.message_id


def _exceeded(message: Incoming, why: str) -> MeshError:
    return MeshError(f"the request {root_of(message)!r} has used {why}", code="budget_exceeded", executed="no")


def _keep(table: OrderedDict[K, T], key: K, entry: T, most: int) -> None:
    table[key] = entry
    table.move_to_end(key)
    if len(table) > most:
        table.popitem(last=False)
