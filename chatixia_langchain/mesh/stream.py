"""A reply that is read while it is written.

- `ReplyStream` is what `mesh.ask_stream` returns: an async iterator of `ReplyChunk`, from any loop; `SyncReplyStream`
  is its blocking twin
- `_Reading` is the request behind it, on the mesh's loop: a task that asks, and the text that was not read yet
- no task group or timeout is open while the reader has the word: it may break off, or be cancelled, anywhere
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ..delivery.chunks import Assembly, Piece
from ..errors import Cancelled
from .types import Reply, ReplyChunk

if TYPE_CHECKING:
    from .portal import Portal

T = TypeVar("T")
Ask = Callable[["_Reading"], Coroutine[Any, Any, Reply]]


class _Reading:
    """One streamed request, on the mesh's loop. It takes the chunks, and one reader takes them from it."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._context = copy_context()  # the caller's: its turn and its trace
        self._text = Assembly()
        self._task: asyncio.Task[Reply] | None = None
        self._news: asyncio.Future[None] | None = None
        self._given = 0
        self._last = ReplyChunk("")  # the one that was given last
        self._closed = False

    def chunk(self, step: int, at: int, text: str) -> None:
        """A chunk came; called by the receiver."""
        if self._text.add(Piece(step, at, text)):
            self._wake()

    async def start(self) -> None:
        """Ask, once."""
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name="mesh-ask-stream", context=self._context
            )
            self._task.add_done_callback(self._done)

    async def _run(self) -> Reply:
        reply = await self._ask(self)
        self._text.finish(reply.content)
        return reply

    def _done(self, task: asyncio.Task[Reply]) -> None:
        if not task.cancelled():
            task.exception()  # seen: it is raised to whoever reads, if anyone does
        self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def next(self, got: int) -> ReplyChunk | None:
        """The next chunk for a reader that has `got` so far; None at the end. Raises what `ask` raises.

        A read from another loop may be cancelled when its chunk is on the way: then it is given again.
        Raises RuntimeError for a second reader.
        """
        await self.start()
        while not self._closed:
            if got < self._given:
                return self._last
            if self._text.out:
                piece = self._text.out.take()
                self._given, self._last = self._given + 1, ReplyChunk(piece.text, piece.step)
            elif self._task is None or self._task.done():
                self._result()
                break
            else:
                await self._wait()
        return None

    async def _wait(self) -> None:
        if self._news is not None:
            raise RuntimeError("this stream is being read already: it has one reader at a time")
        self._news = asyncio.get_running_loop().create_future()
        try:
            await self._news
        finally:
            self._news = None

    def _result(self) -> Reply:
        if self._task is None or self._task.cancelled():
            raise Cancelled("the stream was closed before the reply came")
        return self._task.result()

    @property
    def running(self) -> bool:
        """True while the reply is awaited. From any thread."""
        return self._task is not None and not self._task.done()

    @property
    def whole(self) -> Reply | None:
        """The reply if it is there. From any thread."""
        task = self._task
        good = task is not None and task.done() and not task.cancelled() and task.exception() is None
        return task.result() if good and task is not None else None

    async def reply(self) -> Reply:
        """The whole reply; what was not read yet is let go. Raises what `ask` raises."""
        await self.start()
        if self._task is None:
            raise Cancelled("the stream was closed before anything was asked", executed="no")
        await asyncio.wait([self._task])
        while self._text.out:
            self._text.out.take()
        return self._result()

    def cancel(self) -> None:
        """The reader left: the peer is told, unless the reply is there. Idempotent."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        self._wake()

    async def close(self) -> None:
        """`cancel`, and wait until it is done."""
        self.cancel()
        if self._task is not None:
            await asyncio.wait([self._task])


class _Reader:
    """What both kinds of streams know of how far they have read."""

    def __init__(self, portal: Portal, ask: Ask) -> None:
        self._portal, self._reading = portal, _Reading(ask)
        self._got = 0
        self._ended = False

    def _took(self, chunk: ReplyChunk | None) -> ReplyChunk | None:
        self._got += 1
        self._ended = chunk is None
        return chunk

    def __del__(self) -> None:
        """A stream was dropped, on whatever thread: its request must not outlive it."""
        if not self._reading.running:
            return
        try:
            self._portal.loop.call_soon_threadsafe(self._reading.cancel)
        except RuntimeError:
            pass  # the loop is closed, and the mesh with it


class ReplyStream(_Reader):
    """An async iterator of `ReplyChunk`, made by `mesh.ask_stream`; from any loop.

    Chunks of one step continue each other, and the text of the last step equals the reply. Leaving early (`aclose`,
    the end of `async with`, or dropping the object) cancels the remote run; cancelling a read does not. A reader that
    is slower than the peer gets larger chunks; past 256 KiB that wait, the rest comes with the reply.
    """

    def __aiter__(self) -> ReplyStream:
        return self

    async def __anext__(self) -> ReplyChunk:
        """The next chunk. Raises what `ask` raises, once."""
        chunk = None if self._ended else self._took(await self._ending(self._reading.next, self._got))
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def _ending(self, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run `work` on the mesh's loop; its error, but not that we are cancelled, ends the iteration."""
        try:
            return await self._portal.call(work, *args)
        except RuntimeError:  # the call was wrong, the stream is not
            raise
        except Exception:
            self._ended = True
            raise

    async def __aenter__(self) -> ReplyStream:
        await self._portal.call(self._reading.start)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    @property
    def whole(self) -> Reply | None:
        """The reply, if it is there already: what is still to be read is its rest."""
        return self._reading.whole

    async def reply(self) -> Reply:
        """Wait for the whole reply; chunks that were not read are dropped. Raises what `ask` raises."""
        reply = await self._ending(self._reading.reply)
        self._ended = True
        return reply

    async def aclose(self) -> None:
        """End it; an unfinished run of the peer is cancelled. Idempotent."""
        if self._portal.loop.is_running():
            await self._portal.call(self._reading.close)


class SyncReplyStream(_Reader):
    """A blocking iterator of `ReplyChunk`, made by `mesh.sync.ask_stream`; otherwise a `ReplyStream`."""

    def __iter__(self) -> SyncReplyStream:
        return self

    def __next__(self) -> ReplyChunk:
        """The next chunk. Raises what `ask` raises, once."""
        chunk = None if self._ended else self._took(self._ending(self._reading.next, self._got))
        if chunk is None:
            raise StopIteration
        return chunk

    def _ending(self, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        try:
            return self._portal.call_sync(work, *args)
        except RuntimeError:  # the call was wrong, the stream is not
            raise
        except Exception:
            self._ended = True
            raise

    def __enter__(self) -> SyncReplyStream:
        self._portal.call_sync(self._reading.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def whole(self) -> Reply | None:
        """The reply, if it is there already: what is still to be read is its rest."""
        return self._reading.whole

    @property
    def reply(self) -> Reply:
        """The whole reply; blocks until it is there. Raises what `ask` raises."""
        reply = self._ending(self._reading.reply)
        self._ended = True
        return reply

    def close(self) -> None:
        """End it; an unfinished run of the peer is cancelled. Idempotent."""
        if self._portal.loop.is_running():
            self._portal.call_sync(self._reading.close)
