"""Delivery to and from one peer: outbox, inbox and acknowledgements in one object."""

from __future__ import annotations

from .acks import Acks
from .inbox import Inbox
from .outbox import WINDOW_BYTES, WINDOW_MESSAGES, Outbox


class Session:
    """What is remembered of the traffic with one peer. It outlives channels; `epoch` is the run of the peer's agent."""

    __slots__ = ("acks", "epoch", "inbox", "outbox")

    def __init__(self, *, max_messages: int = WINDOW_MESSAGES, max_bytes: int = WINDOW_BYTES) -> None:
        self.outbox = Outbox(max_messages=max_messages, max_bytes=max_bytes)
        self.inbox = Inbox()
        self.acks = Acks()
        self.epoch = ""

    @property
    def next_at(self) -> float:
        """The earliest moment something is due."""
        return min(self.outbox.next_at, self.acks.due)

    def new_epoch(self, epoch: str) -> bool:
        """Note the peer's epoch; True when its agent was restarted since we last heard of it."""
        restarted = bool(self.epoch) and epoch != self.epoch
        self.epoch = epoch or self.epoch
        return restarted
