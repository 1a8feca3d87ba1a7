"""The task queue's rules over both stores; time is moved by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chatixia_langchain.errors import Busy
from chatixia_langchain.registry import tasks as queue
from chatixia_langchain.registry.store import MemoryStore, SqliteStore, Store
from chatixia_langchain.registry.tasks import (
    FINISHED_KEPT_S,
    LEASE_S,
    MAX_ATTEMPTS,
    MAX_TTL_S,
    MAX_WAITING,
    MAX_WAITING_BYTES,
    Task,
    Tasks,
)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "r.db")
    yield made
    made.close()


@pytest.fixture
def tasks(store: Store) -> Tasks:
    return Tasks(store)


def submit(tasks: Tasks, *, to: str = "b", now: float = 0.0, **changed: Any) -> Task:
    """A task from a to b."""
    given: dict[str, Any] = {"skill": "", "payload": {"x": 1}, "ttl": 300.0, "key": "", "source_peer": "a"}
    return tasks.submit(source_agent_id="a", target_agent_id=to, now=now, **{**given, **changed})[0]


def claim(
    tasks: Tasks, who: str = "b", *, now: float = 0.0, skills: tuple[str, ...] = (), limit: int = 64
) -> list[str]:
    """Ids of what `who` got."""
    got = tasks.claim(peer=who, agent_id=who, names=[who], skills=skills, limit=limit, now=now)
    return [t.id for t in got]


def test_claimed_once_in_order(tasks: Tasks) -> None:
    ids = [submit(tasks).id for _ in range(5)]
    assert claim(tasks, limit=2) + claim(tasks) + claim(tasks) == ids


def test_target_with_skill_is_for_the_target_alone(tasks: Tasks) -> None:
    """H-6: any agent that advertised the skill could take what was addressed to another."""
    task = submit(tasks, skill="sum")
    assert claim(tasks, "c", skills=("sum",)) == []
    assert claim(tasks, "b") == [task.id]


def test_skill_alone_is_for_whoever_has_it(tasks: Tasks) -> None:
    task = submit(tasks, to="", skill="sum")
    assert claim(tasks, "c", skills=("other",)) == []
    assert claim(tasks, "c", skills=("sum",)) == [task.id]


def test_lost_lease_brings_the_task_back(tasks: Tasks) -> None:
    """H-7: a claim whose answer was lost left the task assigned until its end."""
    task = submit(tasks)
    claim(tasks, now=1)
    assert tasks.expire(1 + LEASE_S - 0.1) == []
    assert tasks.expire(1 + LEASE_S) == [task]
    assert (task.state, task.assigned_agent_id, task.attempts) == ("pending", "", 1)
    assert claim(tasks, now=40) == [task.id]
    assert task.attempts == 2


def test_renewed_lease_holds(tasks: Tasks) -> None:
    kept, dropped = submit(tasks, ttl=900), submit(tasks, ttl=900)
    claim(tasks)
    tasks.renew(peer="b", agent_id="b", now=20)
    assert tasks.expire(45) == []
    tasks.renew(peer="b", agent_id="b", now=45, only=[kept.id, "unknown"])
    assert tasks.expire(51) == [dropped]
    tasks.renew(peer="mallory", agent_id="b", now=70)
    assert kept in tasks.expire(76)


def test_given_up_after_too_many_lost_leases(tasks: Tasks) -> None:
    task = submit(tasks, ttl=3000)
    for attempt in range(MAX_ATTEMPTS):
        assert claim(tasks, now=attempt * 100) == [task.id]
        tasks.expire(attempt * 100 + LEASE_S)
    assert (task.state, task.error) == ("failed", f"given up after {MAX_ATTEMPTS} attempts")
    assert claim(tasks, now=1000) == []


def test_expiry_fails_the_task_with_a_reason(tasks: Tasks) -> None:
    waiting, held = submit(tasks, ttl=10), submit(tasks, to="c", ttl=10)
    claim(tasks, "c", now=5)
    assert claim(tasks, "b", now=10) == []
    assert set(map(id, tasks.expire(10))) == {id(waiting), id(held)}
    assert [(t.state, t.error) for t in (waiting, held)] == [("failed", "expired")] * 2


def test_ttl_is_capped(tasks: Tasks) -> None:
    assert submit(tasks, ttl=1e9).ttl == MAX_TTL_S


def test_finished_is_kept_a_while_then_freed(tasks: Tasks) -> None:
    task = submit(tasks, key="k1")
    claim(tasks)
    tasks.finish(task, state="completed", result="42", error="", now=5)
    tasks.expire(5 + FINISHED_KEPT_S - 1)
    assert tasks.get(task.id) is task
    tasks.expire(5 + FINISHED_KEPT_S)
    assert tasks.get(task.id) is None
    assert submit(tasks, key="k1").id != task.id


def test_first_outcome_counts(tasks: Tasks) -> None:
    task = submit(tasks)
    claim(tasks)
    tasks.finish(task, state="completed", result="first", error="", now=1)
    tasks.finish(task, state="failed", result="", error="second", now=2)
    assert (task.state, task.result, task.error, task.updated_at) == ("completed", "first", "", 1)


def test_late_result_after_a_lost_lease_spares_the_second_run(tasks: Tasks) -> None:
    task = submit(tasks)
    claim(tasks)
    tasks.expire(LEASE_S)
    assert task.claimer_peer == "b"
    tasks.finish(task, state="completed", result="late", error="", now=LEASE_S + 1)
    assert claim(tasks, now=LEASE_S + 2) == []


def test_same_id_from_the_same_peer_is_the_same_task(tasks: Tasks) -> None:
    first = submit(tasks, key="k")
    assert submit(tasks, key="k") is first
    assert submit(tasks, key="k", source_peer="c") is not first
    assert len(claim(tasks)) == 2


def test_full_queue_refuses_and_loses_nothing(tasks: Tasks) -> None:
    ids = [submit(tasks, key=f"k{i}").id for i in range(MAX_WAITING)]
    with pytest.raises(Busy):
        submit(tasks)
    assert submit(tasks, key="k0").id == ids[0], "a retry of what was accepted is not new work"
    submit(tasks, to="c")
    got = claim(tasks, limit=MAX_WAITING)
    assert got == ids
    with pytest.raises(Busy):
        submit(tasks)
    first = tasks.get(ids[0])
    assert first is not None
    tasks.finish(first, state="completed", result="", error="", now=1)
    submit(tasks)


def test_bytes_are_bounded_per_target_and_altogether(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    big = {"x": "y" * (MAX_WAITING_BYTES // 4)}
    for _ in range(3):
        submit(tasks, payload=big)
    with pytest.raises(Busy):
        submit(tasks, payload=big)
    monkeypatch.setattr(queue, "MAX_TOTAL_BYTES", MAX_WAITING_BYTES)
    with pytest.raises(Busy):
        submit(tasks, to="c", payload=big)
    submit(tasks, to="c")


def test_accounts_are_even_when_all_is_over(tasks: Tasks) -> None:
    """Counters that drift would make the registry busy for ever."""
    for i in range(20):
        submit(tasks, to="b" if i % 2 else "c", key=f"k{i}")
    claim(tasks, "b", limit=4)
    claim(tasks, "c", limit=3)
    for task in tasks.all()[:5]:
        tasks.finish(task, state="completed", result="r" * 10, error="", now=1)
    for now in (LEASE_S + 1, 300, 300 + FINISHED_KEPT_S):
        tasks.expire(now)
    assert len(tasks) == 0
    assert (tasks._pending, tasks._assigned, tasks._waiting, tasks._keys, tasks._bytes) == ({}, {}, {}, {}, 0)


@pytest.fixture
def reopened(tmp_path: Path) -> Iterator[Callable[[], Tasks]]:
    opened: list[SqliteStore] = []

    def reopen() -> Tasks:
        opened.append(SqliteStore(tmp_path / "again.db"))
        return Tasks(opened[-1])

    yield reopen
    for store in opened:
        store.close()


def test_restart_keeps_tasks_leases_and_idempotency(reopened: Callable[[], Tasks]) -> None:
    """A restarted registry is the same mailbox: pending waits, assigned is still leased, a retry is no second task."""
    before = reopened()
    assigned, pending, done = (submit(before, key=f"k{i}") for i in range(3))
    assert claim(before, limit=1) == [assigned.id]
    before.finish(done, state="completed", result="r", error="", now=1)
    after = reopened()
    assert claim(after, now=2) == [pending.id]
    assert submit(after, key="k0").id == assigned.id
    after.renew(peer="b", agent_id="b", now=20)
    assert after.expire(LEASE_S + 5) == []
    kept = after.get(done.id)
    assert kept is not None
    assert (kept.state, kept.result) == ("completed", "r")
