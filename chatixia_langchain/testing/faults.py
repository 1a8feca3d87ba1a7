"""What an unreliable wire does to frames: drawn from a seed, the same in every run. Pure: no loop, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import NamedTuple

MAX_CHANCE = 0.9  # above it nearly nothing gets through: that is a partition, and there is a better way to say it

Delay = float | tuple[float, float]
"""Seconds, or the two ends of a range that each frame's delay is drawn from."""


class Fate(NamedTuple):
    """What happens to one frame: how many copies arrive (0 = lost), and after how many seconds each."""

    delays_s: tuple[float, ...]

    @property
    def lost(self) -> bool:
        """True when no copy arrives."""
        return not self.delays_s


@dataclass(frozen=True, slots=True)
class Faults:
    """How bad a wire is. Chances are per frame, in each direction.

    `reorder` lets a frame with a short delay overtake one with a long delay; else delays keep the order, as every
    real transport does. Raises ValueError naming the setting that is wrong.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    delay: Delay = 0.0
    reorder: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, chance in (("loss", self.loss), ("duplicate", self.duplicate)):
            if not 0 <= chance <= MAX_CHANCE:
                raise ValueError(f"{name}={chance} is no chance from 0 to {MAX_CHANCE}; to lose all, use a partition")
        low, high = self.range_s
        if not 0 <= low <= high:
            raise ValueError(f"delay={self.delay} is not a number of seconds, or a range (low, high) of them")
        if self.reorder and low == high:
            raise ValueError("reorder needs a range of delays, (low, high): frames of one delay do not overtake")

    @property
    def range_s(self) -> tuple[float, float]:
        """The shortest and the longest delay."""
        return self.delay if isinstance(self.delay, tuple) else (self.delay, self.delay)

    def between(self, sender: str, receiver: str) -> Fates:
        """The fates of the frames from `sender` to `receiver`: a sequence of their own, whatever others send."""
        return Fates(self, Random(f"{self.seed}:{sender}>{receiver}"))


class Fates:
    """Endless: the fate of one frame after the other."""

    def __init__(self, faults: Faults, random: Random) -> None:
        self._faults, self._random = faults, random

    def next(self) -> Fate:
        """Draw the next one. The number of draws is constant: a changed `loss` leaves the delays as they were."""
        faults, (low, high) = self._faults, self._faults.range_s
        lost, doubled = self._random.random() < faults.loss, self._random.random() < faults.duplicate
        delays = (self._random.uniform(low, high), self._random.uniform(low, high))
        return Fate(() if lost else delays if doubled else delays[:1])


@dataclass(slots=True)
class WireCounts:
    """Frames of all members: messages, replies, and the small ones between, such as acknowledgements.

    `lost` and `doubled` are parts of `sent`; `breaks` counts the channels that broke under a lost frame.
    """

    sent: int = 0
    lost: int = 0
    doubled: int = 0
    breaks: int = 0
