"""The text of a streamed answer on both sides. Pure: no clock, no I/O.

- `Writer` counts what was said per step, and keeps, bounded, what waits for a busy transport
- `Assembly` puts chunks together: what it gives out always continues what it gave out before, and in the end the text
  of the last step is the reply
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

MAX_CHARS: Final = 262_144  # of text that waits, and of one step: a reply has no room for more
RUN_CHARS: Final = 64  # what a run costs beside its text, so that the bound holds for tiny ones too
MAX_CHUNK_CHARS: Final = 32_768  # of one frame: six bytes each at worst, and so under the size limit


class Piece(NamedTuple):
    """Text of one step; `at` is how many characters of the step came before."""

    step: int
    at: int
    text: str


class Run:
    """Text of one step without a gap. Its parts are joined when it is taken: joining at each part would be slow."""

    __slots__ = ("at", "parts", "size", "step")

    def __init__(self, step: int, at: int) -> None:
        self.step, self.at = step, at
        self.parts: list[str] = []
        self.size = 0

    def add(self, text: str) -> None:
        """Append `text`."""
        self.parts.append(text)
        self.size += len(text)

    def text(self) -> str:
        """The whole text."""
        if len(self.parts) > 1:
            self.parts = ["".join(self.parts)]
        return self.parts[0]


class Waiting:
    """Runs that wait, oldest first; text that continues the last run is merged into it."""

    __slots__ = ("_runs", "_size")

    def __init__(self) -> None:
        self._runs: deque[Run] = deque()  # bounded by `has_room`, which their users ask
        self._size = 0

    def __len__(self) -> int:
        return len(self._runs)

    def has_room(self, text: str) -> bool:
        """True while there is room for `text`."""
        return self._size + len(text) + RUN_CHARS <= MAX_CHARS

    def add(self, piece: Piece) -> None:
        """Append `piece`."""
        last = self._runs[-1] if self._runs else None
        if last is None or last.step != piece.step or last.at + last.size != piece.at:
            last = Run(piece.step, piece.at)
            self._runs.append(last)
            self._size += RUN_CHARS
        last.add(piece.text)
        self._size += len(piece.text)

    def take(self, max_chars: int = MAX_CHARS) -> Piece:
        """Remove and return the oldest text, `max_chars` at most."""
        run = self._runs[0]
        text = run.text()
        piece = Piece(run.step, run.at, text[:max_chars])
        rest = text[max_chars:]
        self._size -= len(piece.text)
        if rest:
            run.at, run.parts, run.size = run.at + max_chars, [rest], len(rest)
        else:
            self._runs.popleft()
            self._size -= RUN_CHARS
        return piece

    def put_back(self, piece: Piece) -> None:
        """`piece`, which was taken last, could not be handed over."""
        run = Run(piece.step, piece.at)
        run.add(piece.text)
        first = self._runs[0] if self._runs else None
        if first is not None and first.step == piece.step and first.at == piece.at + run.size:
            run.add(first.text())
            self._runs.popleft()
            self._size -= RUN_CHARS
        self._runs.appendleft(run)
        self._size += len(piece.text) + RUN_CHARS


class Writer:
    """What the answering side has to say. What finds no room is dropped, but counted: the reader sees the gap."""

    __slots__ = ("_at", "_step", "dropped", "waiting")

    def __init__(self) -> None:
        self._step = self._at = 0
        self.waiting = Waiting()
        self.dropped = 0

    def add(self, step: int, text: str) -> None:
        """Say `text`."""
        if step != self._step:
            self._step, self._at = step, 0
        at, self._at = self._at, self._at + len(text)
        if self.waiting.has_room(text):
            self.waiting.add(Piece(step, at, text))
        else:
            self.dropped += 1


class Assembly:
    """What the asking side gives to its reader."""

    __slots__ = ("_broken", "_have", "_size", "_step", "out")

    def __init__(self) -> None:
        self._step = 0  # the highest that was heard of
        self._have: list[str] = []  # its text so far, `_size` characters
        self._size = 0
        self._broken = False  # a gap, or no room: nothing more of this step until the reply
        self.out = Waiting()

    def add(self, piece: Piece) -> bool:
        """Take a chunk. True when there is something new to read."""
        if piece.step > self._step:
            self._next_step(piece.step)
        if piece.step < self._step or self._broken or piece.at < self._size or not piece.text:
            return False  # late, repeated or empty
        if piece.at > self._size or self._size + len(piece.text) > MAX_CHARS or not self.out.has_room(piece.text):
            self._broken = True
            return False
        self._give(piece.text)
        return True

    def finish(self, content: str) -> None:
        """The reply is there: give out what is missing of it."""
        have = "".join(self._have)
        if not content.startswith(have) or (have and not content):
            self._next_step(self._step + 1)
            self._give(content)
        elif len(content) > len(have):
            self._give(content[len(have) :])

    def _next_step(self, step: int) -> None:
        self._step, self._size, self._broken = step, 0, False
        self._have.clear()

    def _give(self, text: str) -> None:
        self.out.add(Piece(self._step, self._size, text))
        self._have.append(text)
        self._size += len(text)
