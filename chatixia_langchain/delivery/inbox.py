"""What one peer sent to this side.

- `accept` tells what to do with a message: new (it enters the inbox), seen before, or refused for lack of room
- `start` and `answer` follow a request; one that comes again is not run again: `again` tells what became of it
- a refused message keeps its place: until it comes again (or its time is over) later ones are refused too
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from typing import Any, NamedTuple

REMEMBERED_IDS = 100_000  # per peer, at least; at most twice as many
REMEMBERED_S = 24 * 3600.0
MAX_ANSWERS = 1_024  # per peer; of older requests only the id is known, a repetition is answered with an error
MAX_ANSWER_BYTES = 8 * 1_048_576
REFUSED_FOR_S = 10.0  # a sender that gave up without a word holds its later messages no longer than this


class Verdict(Enum):
    """What to do with a message that arrived."""

    NEW = "new"  # take it, acknowledge it
    SEEN = "seen"  # acknowledge it again, do nothing else
    REFUSED = "refused"  # answer busy, acknowledge nothing


class Answer(NamedTuple):
    """A reply that was given: the same id and bytes go again when the request comes again."""

    id: str
    body: bytes
    kind: str


class SeenIds:
    """The ids of the last 24 hours, at least the last 100,000. Two sets that take turns: no clock or order per id."""

    __slots__ = ("_limit", "_new", "_old", "_turned_at")

    def __init__(self, limit: int = REMEMBERED_IDS) -> None:
        self._limit = limit
        self._new: set[str] = set()
        self._old: set[str] = set()
        self._turned_at = 0.0

    def __contains__(self, id_: str) -> bool:
        return id_ in self._new or id_ in self._old

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def add(self, id_: str, now: float) -> None:
        """Remember `id_`."""
        if len(self._new) >= self._limit or now - self._turned_at >= REMEMBERED_S:
            self._old, self._new, self._turned_at = self._new, set(), now
        self._new.add(id_)

    def discard(self, id_: str) -> None:
        """Forget `id_`."""
        self._new.discard(id_)
        self._old.discard(id_)


class Inbox:
    """Messages and requests of one peer. `running` holds the requests without an answer, by id."""

    __slots__ = ("_answer_bytes", "_answers", "_attempts", "_refused", "_refused_until", "_seen", "running")

    def __init__(self, *, limit: int = REMEMBERED_IDS) -> None:
        self._seen = SeenIds(limit)
        self._answers: OrderedDict[str, Answer] = OrderedDict()
        self._answer_bytes = 0
        self._attempts: OrderedDict[str, int] = OrderedDict()
        self._refused = ""
        self._refused_until = 0.0
        self.running: dict[str, Any] = {}  # bounded by max_inbox and by what the handlers have taken

    def accept(self, id: str, now: float, *, room: bool) -> Verdict:
        """Decide on message `id`; `room` says whether the inbox has a free place."""
        if id in self._seen:
            return Verdict.SEEN
        if self._refused and now >= self._refused_until:
            self._refused = ""
        if not room or (self._refused and id != self._refused):
            if not self._refused:
                self._refused = id
            self._refused_until = now + REFUSED_FOR_S
            return Verdict.REFUSED
        self._refused = ""
        self._seen.add(id, now)
        return Verdict.NEW

    def start(self, id: str, request: Any) -> int:
        """A request was let in. Returns its attempt: 1, or more for one that was cancelled and is asked again."""
        self.running[id] = request
        return self._attempts.get(id, 1) if self._attempts else 1

    def answer(self, id: str, answer: Answer) -> bool:
        """Keep the answer of a running request; False when it was answered or abandoned before."""
        if self.running.pop(id, None) is None:
            return False
        self._answers[id] = answer
        self._answer_bytes += len(answer.body)
        while len(self._answers) > MAX_ANSWERS or self._answer_bytes > MAX_ANSWER_BYTES:
            self._answer_bytes -= len(self._answers.popitem(last=False)[1].body)
        return True

    def again(self, id: str) -> Answer | None:
        """The answer given to request `id`; None while it runs or when the answer is not kept any more."""
        return self._answers.get(id)

    def replace(self, id: str, answer: Answer) -> None:
        """The kept answer to request `id` goes again as `answer`: the same under another id."""
        if (kept := self._answers.get(id)) is not None:
            self._answers[id] = answer
            self._answer_bytes += len(answer.body) - len(kept.body)

    def cancel(self, id: str) -> Any | None:
        """The asker waits no longer: return the running request, and let the same id be asked again later."""
        if id == self._refused:
            self._refused = ""
        request = self.running.pop(id, None)
        if request is not None:
            self._seen.discard(id)
            self._attempts[id] = self._attempts.pop(id, 1) + 1
            if len(self._attempts) > MAX_ANSWERS:
                self._attempts.popitem(last=False)
        return request
