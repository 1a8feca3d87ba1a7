"""What a tree of requests may still use, and what it has used. Pure data, no clock.

- `Budget` goes down the tree: what is left of the root request when it reaches an agent
- `Usage` comes back up: what an agent used for one request, with that of the peers it asked inside
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..protocol.envelope import Budget as Budget  # it is a part of the envelope; the name belongs here

Tokens = dict[str, int]

KEYS: Final = ("input_tokens", "output_tokens", "total_tokens")
MAX_DEPTH: Final = 8  # as deep as the default hop limit lets a tree grow
MAX_NODES: Final = 256  # peers and models of a whole tree; more is not a bill, it is an attack
MAX_NUMBER: Final = 2**53  # what JSON carries exactly
MAX_NAME_CHARS: Final = 256


@dataclass(slots=True)
class Usage:
    """What one request used: `turns` and tokens by model of the agent itself, and by peer what it asked of others.

    May be read while another thread adds to it: models run in threads too.
    """

    turns: int = 0
    models: dict[str, Tokens] = field(default_factory=dict)
    peers: dict[str, Usage] = field(default_factory=dict)

    def add_model(self, name: str, input_tokens: int, output_tokens: int) -> None:
        """Count one call of model `name`."""
        known = self.models.setdefault(name, dict.fromkeys(KEYS, 0))
        for key, more in zip(KEYS, (input_tokens, output_tokens, input_tokens + output_tokens), strict=True):
            known[key] += more

    def add_peer(self, peer: str, usage: Usage) -> None:
        """Add what `peer` reported for a request of ours; several requests to one peer are summed."""
        known = self.peers.setdefault(peer, Usage())
        known.turns += usage.turns
        for name, tokens in usage.models.items():
            known.add_model(name, tokens["input_tokens"], tokens["output_tokens"])
        for further, deeper in usage.peers.items():
            known.add_peer(further, deeper)

    def total(self) -> Tokens:
        """The tokens of the whole tree."""
        result = dict.fromkeys(KEYS, 0)
        for usage in self._walk():
            for tokens in list(usage.models.values()):
                for key in KEYS:
                    result[key] += tokens[key]
        return result

    def all_turns(self) -> int:
        """The turns of the whole tree."""
        return sum(usage.turns for usage in self._walk())

    def _walk(self) -> Iterator[Usage]:
        yield self
        for peer in list(self.peers.values()):
            yield from peer._walk()

    def to_json(self) -> dict[str, Any]:
        """The tree as plain JSON, as a reply carries it in `meta["usage"]`; empty parts are left out."""
        plain: dict[str, Any] = {"turns": self.turns} if self.turns else {}
        if self.models:
            plain["models"] = {name: dict(tokens) for name, tokens in self.models.copy().items()}
        if self.peers:
            plain["peers"] = {peer: usage.to_json() for peer, usage in self.peers.copy().items()}
        return plain

    @classmethod
    def decode(cls, raw: object) -> Usage:
        """Read what a peer reported. Never raises: a tree that is malformed or too large becomes an empty `Usage`."""
        try:
            return _Reader().usage(raw, 0)
        except ValueError:
            return cls()


class _Reader:
    """Reads one tree, and counts its nodes: models and peers."""

    def __init__(self) -> None:
        self._nodes = 0

    def usage(self, raw: object, depth: int) -> Usage:
        if depth > MAX_DEPTH or not isinstance(raw, Mapping):
            raise ValueError("too deep, or no object")
        models = {self._name(n): self._tokens(t) for n, t in self._items(raw.get("models", {}))}
        peers = {self._name(n): self.usage(u, depth + 1) for n, u in self._items(raw.get("peers", {}))}
        return Usage(_number(raw.get("turns", 0)), models, peers)

    def _items(self, raw: object) -> list[tuple[object, object]]:
        if not isinstance(raw, Mapping):
            raise ValueError("no object")
        self._nodes += len(raw)
        if self._nodes > MAX_NODES:
            raise ValueError("too many nodes")
        return list(raw.items())

    def _name(self, raw: object) -> str:
        if not isinstance(raw, str) or len(raw) > MAX_NAME_CHARS:
            raise ValueError("a name that is none")
        return raw

    def _tokens(self, raw: object) -> Tokens:
        if not isinstance(raw, Mapping):
            raise ValueError("no object")
        return {key: _number(raw.get(key, 0)) for key in KEYS}


def _number(raw: object) -> int:
    if not isinstance(raw, int) or isinstance(raw, bool) or not 0 <= raw <= MAX_NUMBER:
        raise ValueError("not a count")
    return raw
