"""Running one turn: until it is done or paused, or its asker cancels, or its time is over; then it is answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableConfig

from ..errors import Cancelled
from ..mesh.budget import Usage
from ..mesh.trace import turn_span
from ..mesh.types import Incoming
from .answers import Answers
from .history import History
from .outcome import Job, Outcome, Runner
from .paused import Paused, Pauses
from .streaming import Emit
from .supervisor import Supervisor

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TurnEvent:
    """One turn began, ended, paused or failed, or a message was dropped: for logs and displays.

    `answer` is "" unless it ended, `error` unless it failed.
    """

    kind: Literal["began", "ended", "paused", "failed", "dropped"]
    thread_id: str
    messages: tuple[Incoming, ...]
    answer: str = ""
    error: str = ""


@dataclass(slots=True)
class _Work:
    """One turn. `resume` holds the values of a decision, None for messages; `spent` is set when the turn runs."""

    thread: str
    batch: list[Incoming]
    history: History
    resume: Mapping[str, Any] | None
    spent: Usage | None = None

    @property
    def last(self) -> Incoming:
        return self.batch[-1]


class Serving:
    """Runs the turns of the agent `name`. `limit` is the number of steps a graph may take in one."""

    def __init__(
        self,
        name: str,
        runner: Runner,
        supervisor: Supervisor,
        pauses: Pauses,
        answers: Answers,
        *,
        limit: int,
        on_turn: Callable[[TurnEvent], None],
    ) -> None:
        self._name, self._runner, self._supervisor = name, runner, supervisor
        self._pauses, self.answers = pauses, answers
        self._limit, self._on_turn = limit, on_turn

    async def run(
        self, thread: str, batch: list[Incoming], history: History, resume: Mapping[str, Any] | None = None
    ) -> None:
        """Run one turn of the messages that the policy's budgets admit, and answer it."""
        batch, refused = self._supervisor.admit(batch)
        for message, why in refused:
            await message.fail(why)
        if not batch:
            return
        self.tell(TurnEvent("began", thread, tuple(batch)))
        work = _Work(thread, batch, history, resume)
        task = asyncio.create_task(self._work(work), name=f"mesh-turn-{work.last.message_id}")
        await _until(task, work.last)
        await self._end(work, task)

    def tell(self, event: TurnEvent) -> None:
        """Show an event to the user's display."""
        try:
            self._on_turn(event)
        except Exception:  # a display that breaks must not cost a peer its answer
            logger.exception("on_turn raised kind=%s thread=%s", event.kind, event.thread_id)

    async def _work(self, work: _Work) -> Outcome:
        with turn_span(work.last, self._name) as trace, self._supervisor.turn(work.last) as (turn, callbacks):
            turn.trace = trace
            work.spent = turn.spent
            return await self._runner.run(self._job(work, callbacks))

    def _job(self, work: _Work, callbacks: list[BaseCallbackHandler]) -> Job:
        last = work.last
        mesh = {"peer": last.peer, "conversation": last.conversation, "message_id": last.message_id}
        config: RunnableConfig = {
            "configurable": {"thread_id": work.thread},
            "run_name": "mesh-turn",
            "tags": ["chatixia"],
            "metadata": {"mesh": mesh},
            "recursion_limit": self._limit,
            "callbacks": callbacks,
        }
        listener = next((m for m in (last, self.answers.owed(work.thread)) if m is not None and m.stream), None)
        return Job(
            work.batch,
            config,
            work.history,
            _emit_to(listener) if listener is not None else None,
            work.resume,
        )

    async def _end(self, work: _Work, task: asyncio.Task[Outcome]) -> None:
        thread, last, came = work.thread, work.last, tuple(work.batch)
        error: BaseException | None = None
        if task.cancelled():
            error = Cancelled("the request was cancelled, or its time is over")
        elif task.exception() is not None:
            error = task.exception()
            logger.error("turn failed peer=%s id=%s", last.peer, last.message_id, exc_info=error)
        if error is not None:
            await self._pauses.drop(thread)  # a question whose task failed can no longer be answered
            name = "cancelled" if task.cancelled() else type(error).__name__
            self.tell(TurnEvent("failed", thread, came, error=name))
            await self.answers.failed(thread, last, error, work.spent)
            return
        outcome = task.result()
        if outcome.interrupts:
            paused = await self._paused(work, outcome)
            self.tell(TurnEvent("paused", thread, came))
            await self.answers.paused(thread, paused, last, work.spent)
            return
        await self._pauses.drop(thread)
        self.tell(TurnEvent("ended", thread, came, answer=outcome.text))
        await self.answers.ended(thread, last, outcome.text, work.spent)

    async def _paused(self, work: _Work, outcome: Outcome) -> Paused:
        """Note a pause: of a new message, or again of the one that was paused before."""
        if work.resume is None:
            paused = Paused.of(work.last, outcome.interrupts)
        else:
            paused = self._pauses.get(work.thread) or Paused.found(work.last.peer, work.last.conversation, work.history)
            paused = replace(paused, interrupts=outcome.interrupts)
        await self._pauses.put(work.thread, paused)
        return paused


def _emit_to(listener: Incoming) -> Emit:
    """Show text to whoever asked for it."""

    async def emit(said: str, step: int) -> None:
        try:
            await listener.chunk(said, step)
        except ValueError as exc:  # lone surrogates, say: the turn is not to blame, and its reply tells the peer
            logger.warning("chunk not sent peer=%s id=%s: %s", listener.peer, listener.message_id, exc)

    return emit


async def _until(task: asyncio.Task[Outcome], last: Incoming) -> None:
    """Wait for the turn; cancel it when its asker cancels or its time is over."""
    gone = asyncio.create_task(last.cancelled.wait(), name=f"mesh-cancel-{last.message_id}")
    try:
        async with asyncio.timeout(last.ttl_s if last.expects_reply else None):
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    except TimeoutError:
        logger.info("turn ran out of time peer=%s id=%s", last.peer, last.message_id)
    finally:
        for each in (task, gone):
            if not each.done():
                each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)
