"""The mailbox over HTTP: long polls, claimers that die, results for who asked, and nobody else's."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit

from chatixia_langchain.registry.tasks import LEASE_S, MAX_WAITING

from .conftest import Caller, World, until


async def test_task_there_and_back(world: World) -> None:
    a, b = world.caller("a"), world.caller("b")
    task_id = (await a.post("/api/hub/tasks", {"target_agent_id": "b", "payload": {"n": 1}}))["task_id"]
    (task,) = (await b.post("/api/hub/claim", {"agent_id": "b"}))["tasks"]
    assert (task["id"], task["state"], task["source_agent_id"], task["payload"]) == (task_id, "assigned", "a", {"n": 1})
    assert (await b.post(f"/api/hub/tasks/{task_id}", {"state": "completed", "result": "ok"}))["status"] == "ok"
    done = await a.get(f"/api/hub/tasks/{task_id}")
    assert (done["state"], done["result"]) == ("completed", "ok")


async def test_long_polls_wake_by_themselves(world: World) -> None:
    """A claim and a wait for the result are both asleep when what they wait for happens."""
    a, b = world.caller("a"), world.caller("b")
    bell = world.server.registry.bell
    claim = asyncio.create_task(b.post("/api/hub/claim", {"agent_id": "b", "wait_s": 30}))
    await until(lambda: "agent:b" in bell._waiters)
    task_id = (await a.post("/api/hub/tasks", {"target_agent_id": "b"}))["task_id"]
    assert [t["id"] for t in (await claim)["tasks"]] == [task_id]
    result = asyncio.create_task(a.get(f"/api/hub/tasks/{task_id}", params={"wait_s": 30}))
    await until(lambda: f"task:{task_id}" in bell._waiters)
    await b.post(f"/api/hub/tasks/{task_id}", {"state": "failed", "error": "why"})
    assert ((await result)["state"], (await result)["error"]) == ("failed", "why")
    await until(lambda: not bell._waiters)


async def test_long_poll_for_a_skill(world: World) -> None:
    a, b, c = (world.caller(n) for n in "abc")
    await b.post("/api/hub/heartbeat", {"agent_id": "b", "skill_names": ["sum"]})
    await c.post("/api/hub/heartbeat", {"agent_id": "c", "skill_names": ["other"]})
    claim = asyncio.create_task(b.post("/api/hub/claim", {"agent_id": "b", "wait_s": 30}))
    await until(lambda: "skill:sum" in world.server.registry.bell._waiters)
    await a.post("/api/hub/tasks", {"skill": "sum"})
    assert (await c.post("/api/hub/claim", {"agent_id": "c"}))["tasks"] == []
    assert len((await claim)["tasks"]) == 1


async def test_long_poll_without_news_ends_empty(world: World) -> None:
    assert await world.caller("a").post("/api/hub/claim", {"agent_id": "a", "wait_s": 0.2}) == {"tasks": []}


async def test_one_task_for_many_claimers_goes_to_one(world: World) -> None:
    a, b = world.caller("a"), world.caller("b")
    claims = [
        asyncio.create_task(b.post("/api/hub/claim", {"agent_id": "b", "wait_s": 3, "max": 1})) for _ in range(20)
    ]
    await until(lambda: len(world.server.registry.bell._waiters.get("agent:b", ())) == 20)
    ids = [(await a.post("/api/hub/tasks", {"target_agent_id": "b"}))["task_id"] for _ in range(5)]
    got = [t["id"] for c in claims for t in (await c)["tasks"]]
    assert sorted(got) == sorted(ids)


async def test_poller_that_hung_up_takes_nothing(world: World) -> None:
    """An agent that was killed in a long poll must not keep its successor waiting for a lease to end."""
    a, b = world.caller("a"), world.caller("b")
    where = urlsplit(world.server.url)
    body = json.dumps({"agent_id": "b", "wait_s": 30})
    _, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(
        f"POST /api/hub/claim HTTP/1.1\r\nhost: localhost\r\nx-api-key: {b.key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}".encode()
    )
    bell = world.server.registry.bell
    await until(lambda: "agent:b" in bell._waiters)
    writer.transport.abort()
    await until(lambda: "agent:b" not in bell._waiters)
    task_id = (await a.post("/api/hub/tasks", {"target_agent_id": "b"}))["task_id"]
    (task,) = (await b.post("/api/hub/claim", {"agent_id": "b"}))["tasks"]
    assert (task["id"], task["attempts"]) == (task_id, 1)


async def test_dead_claimers_task_goes_to_the_next(world: World) -> None:
    """The claimer dies with the task; whoever waits gets it when the lease ends, by a ring and not by polling."""
    a, b, c = (world.caller(n) for n in "abc")
    for worker in (b, c):
        await worker.post("/api/hub/heartbeat", {"agent_id": worker.peer_id, "skill_names": ["sum"]})
    task_id = (await a.post("/api/hub/tasks", {"skill": "sum"}))["task_id"]
    assert len((await b.post("/api/hub/claim", {"agent_id": "b"}))["tasks"]) == 1
    waiting = asyncio.create_task(c.post("/api/hub/claim", {"agent_id": "c", "wait_s": 30}))
    await until(lambda: "skill:sum" in world.server.registry.bell._waiters)
    world.server.advance(LEASE_S)
    (task,) = (await asyncio.wait_for(waiting, 20))["tasks"]  # rung: the poll itself would end after 30 s
    assert (task["id"], task["assigned_agent_id"], task["attempts"]) == (task_id, "c", 2)
    assert await b.status("POST", f"/api/hub/tasks/{task_id}", {"state": "completed", "result": "late"}) == 404
    await c.post(f"/api/hub/tasks/{task_id}", {"state": "completed", "result": "mine"})
    assert (await a.get(f"/api/hub/tasks/{task_id}"))["result"] == "mine"


async def swept(caller: Caller) -> None:
    """Wait until the registry has looked at its clock: a short-lived task of its own has expired."""
    task_id = (await caller.post("/api/hub/tasks", {"target_agent_id": "nobody", "ttl": 0.01}))["task_id"]
    assert (await caller.get(f"/api/hub/tasks/{task_id}", params={"wait_s": 20}))["error"] == "expired"


async def test_heartbeat_keeps_the_lease_and_brings_tasks(world: World) -> None:
    a, b = world.caller("a"), world.caller("b")
    task_id = (await a.post("/api/hub/tasks", {"target_agent_id": "b"}))["task_id"]
    first = await b.post("/api/hub/heartbeat", {"agent_id": "b"})
    assert [t["id"] for t in first["pending_tasks"]] == [task_id]
    for _ in range(3):
        world.server.advance(LEASE_S * 0.6)
        assert (await b.post("/api/hub/heartbeat", {"agent_id": "b"}))["pending_tasks"] == []
    await swept(a)
    held = await a.get(f"/api/hub/tasks/{task_id}")
    assert (held["state"], held["attempts"]) == ("assigned", 1)
    world.server.advance(LEASE_S)
    await swept(a)
    assert (await a.get(f"/api/hub/tasks/{task_id}"))["state"] == "pending"


async def test_others_see_and_finish_nothing(world: World) -> None:
    """H-2: any caller could read and finish any task."""
    a, b, mallory = (world.caller(n) for n in ("a", "b", "mallory"))
    task_id = (await a.post("/api/hub/tasks", {"target_agent_id": "b"}))["task_id"]
    await b.post("/api/hub/claim", {"agent_id": "b"})
    for method, body in (("GET", None), ("POST", {"state": "completed", "result": "forged"})):
        assert await mallory.status(method, f"/api/hub/tasks/{task_id}", body) == 404
    assert await a.status("POST", f"/api/hub/tasks/{task_id}", {"state": "completed"}) == 404, (
        "the asker is not the claimer"
    )
    assert await mallory.get("/api/hub/tasks/all") == []
    assert [t["state"] for t in await b.get("/api/hub/tasks/all")] == ["assigned"]


async def test_same_id_is_the_same_task(world: World) -> None:
    a, b = world.caller("a"), world.caller("b")
    body = {"target_agent_id": "b", "id": "01ab-message"}
    answers = await asyncio.gather(*(a.post("/api/hub/tasks", body) for _ in range(10)))
    assert len({r["task_id"] for r in answers}) == 1
    assert len((await b.post("/api/hub/claim", {"agent_id": "b"}))["tasks"]) == 1


async def test_expired_task_tells_who_waits(world: World) -> None:
    a = world.caller("a")
    task_id = (await a.post("/api/hub/tasks", {"target_agent_id": "b", "ttl": 50}))["task_id"]
    waiting = asyncio.create_task(a.get(f"/api/hub/tasks/{task_id}", params={"wait_s": 30}))
    await until(lambda: f"task:{task_id}" in world.server.registry.bell._waiters)
    world.server.advance(50)
    expired = await asyncio.wait_for(waiting, 20)
    assert (expired["state"], expired["error"]) == ("failed", "expired")


async def test_full_mailbox_says_busy(world: World) -> None:
    a = world.caller("a")
    for _ in range(MAX_WAITING):
        await a.post("/api/hub/tasks", {"target_agent_id": "b"})
    answer = await a.http.post("/api/hub/tasks", json={"target_agent_id": "b"})
    assert (answer.status_code, answer.json()["code"]) == (503, "busy")
    assert answer.headers["retry-after"] == "1"
    await a.post("/api/hub/tasks", {"target_agent_id": "c"})


async def test_task_for_nobody_is_refused(world: World) -> None:
    assert await world.caller("a").status("POST", "/api/hub/tasks", {"payload": {}}) == 422
