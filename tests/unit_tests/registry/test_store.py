"""One contract over both stores."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chatixia_langchain.registry.store import MemoryStore, SqliteStore, Store, StoreError

Reopen = Callable[[Store], Store]


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "r.db")
    yield made
    made.close()


def test_put_is_loaded_in_order_of_first_put(store: Store) -> None:
    for key in ("b", "a", "c"):
        store.put("task", key, key.encode())
    store.put("task", "b", b"again")
    assert list(store.load("task")) == [("b", b"again"), ("a", b"a"), ("c", b"c")]


def test_kinds_do_not_mix(store: Store) -> None:
    store.put("task", "x", b"1")
    store.put("agent", "x", b"2")
    store.delete("task", "x")
    assert list(store.load("task")) == []
    assert list(store.load("agent")) == [("x", b"2")]


def test_delete_of_nothing_is_no_error(store: Store) -> None:
    store.delete("task", "never")
    assert list(store.load("task")) == []


def test_changes_while_loading_are_allowed(store: Store) -> None:
    for key in "abc":
        store.put("task", key, b"x")
    for key, _ in store.load("task"):
        store.delete("task", key)
    assert list(store.load("task")) == []


def test_close_twice(store: Store) -> None:
    store.close()
    store.close()


def test_sqlite_survives_a_process_that_never_closed(tmp_path: Path) -> None:
    """What `put` returned for is there for the next process, and for its owner's eyes alone."""
    first = SqliteStore(tmp_path / "r.db")
    first.put("task", "x", b"body")
    second = SqliteStore(tmp_path / "r.db")
    assert list(second.load("task")) == [("x", b"body")]
    assert sqlite3.connect(tmp_path / "r.db").execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert stat.S_IMODE((tmp_path / "r.db").stat().st_mode) == 0o600
    first.close()
    second.close()


@pytest.mark.parametrize("content", [None, b"this is no database, whatever its name says" * 40])
def test_what_is_no_database_is_a_clear_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "r.db"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(StoreError, match=r"r\.db"):
        SqliteStore(path)
