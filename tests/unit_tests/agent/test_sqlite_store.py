"""Conversations in a file: what goes in comes out after a restart, within bounds, and nothing else is ever built."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    add_notification_metadata,
)

from chatixia_langchain.agent.message_json import decode, encode
from chatixia_langchain.agent.sqlite_store import SQLiteStore
from chatixia_langchain.agent.store import ConversationStore, MemoryStore

CALL: Any = {"name": "ask_bob", "args": {"message": "hi"}, "id": "c1", "type": "tool_call"}
ALL = [
    SystemMessage("rules"),
    add_notification_metadata(HumanMessage("hi", name="bob"), source="chatixia_mesh", data={"message_id": "m1"}),
    AIMessage([{"type": "text", "text": "blocks"}], tool_calls=[CALL], id="a1"),
    ToolMessage("said", tool_call_id="c1", name="ask_bob", status="error"),
    HumanMessage("\ud800 lone, and \x00"),
    AIMessage("done"),
]


def turn(n: int) -> list[BaseMessage]:
    return [
        HumanMessage(f"q{n}"),
        AIMessage("", tool_calls=[CALL]),
        ToolMessage("r", tool_call_id="c1"),
        AIMessage("a"),
    ]


async def test_every_role_survives_a_restart(tmp_path: Path) -> None:
    await SQLiteStore(tmp_path / "s").append("t", ALL)
    assert await SQLiteStore(tmp_path / "s").load("t") == ALL
    assert await SQLiteStore(tmp_path / "s").load("other") == []


def both(tmp_path: Path) -> list[Callable[..., ConversationStore]]:
    return [MemoryStore, lambda **bounds: SQLiteStore(tmp_path / "s", **bounds)]


async def test_both_stores_forget_whole_turns_past_their_bound(tmp_path: Path) -> None:
    """A result without its call makes providers refuse the whole history, so both cut at a human message."""
    left = []
    for make in both(tmp_path):
        store = make(max_messages=10)
        for n in range(7):
            await store.append("t", turn(n))
        left.append([m.text for m in await store.load("t")])
    assert left[0] == left[1] == ["q5", "", "r", "a", "q6", "", "r", "a"]


async def test_both_stores_forget_the_thread_used_least_recently(tmp_path: Path) -> None:
    for make in both(tmp_path):
        store = make(max_threads=2)
        await store.append("one", turn(1))
        await store.append("two", turn(2))
        await store.load("one")
        await store.append("three", turn(3))
        assert [bool(await store.load(t)) for t in ("one", "two", "three")] == [True, False, True]


async def test_a_turn_that_cannot_be_stored_leaves_nothing_behind(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "s")
    with pytest.raises(TypeError, match="RemoveMessage cannot be stored"):
        await store.append("t", [HumanMessage("hi"), RemoveMessage("__remove_all__")])
    with pytest.raises(TypeError, match="not JSON serializable"):
        await store.append("t", [HumanMessage([{"type": "text", "text": object()}])])
    assert await store.load("t") == []


async def test_the_file_is_private_and_many_loops_may_use_it(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "s")
    await asyncio.gather(*(store.append(f"t{n % 4}", turn(n)) for n in range(40)))
    assert stat.S_IMODE(os.stat(tmp_path / "s").st_mode) == 0o600
    there = await asyncio.to_thread(lambda: asyncio.run(store.load("t0")))
    assert len(there) == 40
    await store.aclose()
    await store.aclose()
    assert len(await store.load("t1")) == 40, "closing is not the end: the next use opens it again"
    await store.aclose()


async def test_a_file_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "s") as link:
        link.execute("PRAGMA user_version=99")
    link.close()
    with pytest.raises(ValueError, match="newer release"):
        await SQLiteStore(tmp_path / "s").load("t")


async def test_killed_in_the_middle_of_its_writes_every_turn_is_whole(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import asyncio, sys
        from langchain_core.messages import AIMessage, HumanMessage
        from chatixia_langchain.agent.sqlite_store import SQLiteStore
        async def main():
            store = SQLiteStore(sys.argv[1])
            for n in range(10**6):
                await store.append("t", [HumanMessage(f"q{n}"), AIMessage(f"a{n}")])
                print(n, flush=True)
        asyncio.run(main())
    """)
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "s")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(50)]
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read()
    process.wait(10)
    process.stdout.close()
    last = int(rest.split("\n")[-2]) if rest.count("\n") else told[-1]
    texts = [m.text for m in await SQLiteStore(tmp_path / "s").load("t")]
    assert texts[::2] == [f"q{a[1:]}" for a in texts[1::2]], "whole turns, in order"
    assert int(texts[-1][1:]) >= last, "what append returned from is on disk"


@pytest.mark.parametrize(
    "raw",
    [
        '{"lc": 1, "type": "constructor", "id": ["langchain_core", "prompts", "PromptTemplate"], "kwargs": {}}',
        '{"role": "remove", "content": "", "id": "__remove_all__"}',
        '{"role": "tool", "content": "x"}',
        '{"role": "ai", "content": "x", "calls": [{"name": "rm"}]}',
        '{"role": "human", "content": "x", "note": 5}',
        '{"role": "ai", "content": "x", "calls": [], "additional_kwargs": 5}',
        "[]",
        "{",
    ],
)
async def test_rows_that_are_no_messages_are_named_and_build_nothing(tmp_path: Path, raw: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        decode(raw)
    store = SQLiteStore(tmp_path / "s")
    await store.append("t", [HumanMessage("hi")])
    with sqlite3.connect(tmp_path / "s") as link:
        link.execute("UPDATE messages SET body = ?", (raw,))
    link.close()
    with pytest.raises(ValueError, match="message 1 of thread t"):
        await store.load("t")


def test_what_a_provider_wants_back_is_kept_as_plain_json() -> None:
    """Thought signatures, say. Objects are left out, and a dict that names a class stays a dict."""
    named = {"lc": 1, "type": "constructor", "id": ["langchain_core", "prompts", "PromptTemplate"], "kwargs": {}}
    extra = {"signature": "abc", "named": named, "client": object()}
    message = AIMessage("x", additional_kwargs=extra, response_metadata={"model_provider": "p"})
    kept = decode(encode(message))
    assert kept == AIMessage(
        "x", additional_kwargs={"signature": "abc", "named": named}, response_metadata={"model_provider": "p"}
    )
    assert type(kept.additional_kwargs["named"]) is dict


def test_of_other_roles_nothing_more_is_carried() -> None:
    message = HumanMessage("x", additional_kwargs={"lc": 1, "type": "constructor"}, response_metadata={"a": 1})
    assert "constructor" not in encode(message)
    assert decode(encode(message)) == HumanMessage("x")
