"""Waiting for a topic to be rung: what the long polls sleep on. Nothing polls, nothing is kept for who is not there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable


class Bell:
    """Waiters by topic. A ring wakes all waiters of that topic once; they look again for themselves."""

    def __init__(self) -> None:
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self._closed = False

    def ring(self, topic: str) -> None:
        """Wake everyone who waits for `topic`."""
        for waiter in self._waiters.get(topic, ()):
            if not waiter.done():
                waiter.set_result(None)

    def close(self) -> None:
        """Wake everyone, for good: the server is going down."""
        self._closed = True
        for topic in list(self._waiters):
            self.ring(topic)

    @property
    def is_closed(self) -> bool:
        """True when waiting is over."""
        return self._closed

    def listen(self, topics: Iterable[str]) -> Ear:
        """Begin to listen; enter the result before looking at the state, so that no ring is missed."""
        return Ear(self._waiters, tuple(topics))


class Ear:
    """One waiter's place at its topics, held while its `with` block runs."""

    def __init__(self, waiters: dict[str, set[asyncio.Future[None]]], topics: tuple[str, ...]) -> None:
        self._waiters, self._topics = waiters, topics
        self.heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __enter__(self) -> Ear:
        for topic in self._topics:
            self._waiters.setdefault(topic, set()).add(self.heard)
        return self

    def __exit__(self, *_: object) -> None:
        for topic in self._topics:
            left = self._waiters[topic]
            left.discard(self.heard)
            if not left:
                del self._waiters[topic]
