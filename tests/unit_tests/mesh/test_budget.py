"""What goes down a tree of requests, and what comes back up; numbers of peers are never believed."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import pytest

from chatixia_langchain import Incoming, Reply, Usage
from chatixia_langchain.errors import MeshError
from chatixia_langchain.mesh.budget import MAX_DEPTH, MAX_NODES, Budget
from chatixia_langchain.mesh.context import Place, Turn, place_of
from chatixia_langchain.mesh.types import RemoteInterrupt


def incoming(**more: Any) -> Incoming:
    """A request with 30 s left."""
    return Incoming("a", "x", "c1", "m1", True, ttl_s=30.0, **more)


def tree() -> Usage:
    """b used a model once and asked c, which used two."""
    usage, deeper = Usage(turns=1), Usage(turns=2)
    usage.add_model("m", 10, 5)
    deeper.add_model("m", 1, 1)
    deeper.add_model("n", 2, 3)
    usage.add_peer("c", deeper)
    return usage


def test_usage_is_summed_as_a_tree_and_survives_the_wire() -> None:
    usage = tree()
    assert usage.total() == {"input_tokens": 13, "output_tokens": 9, "total_tokens": 22}
    assert usage.all_turns() == 3
    assert Usage.decode(usage.to_json()) == usage
    assert Usage().to_json() == {}


def test_two_replies_of_one_peer_are_added() -> None:
    usage = Usage()
    usage.add_peer("b", tree())
    usage.add_peer("b", tree())
    assert usage.peers["b"].turns == 2
    assert usage.peers["b"].peers["c"].models["n"]["total_tokens"] == 10
    assert usage.total()["total_tokens"] == 44


def test_usage_is_read_while_another_thread_adds_to_it() -> None:
    """A model in a thread is counted while its turn asks what is left."""
    usage = Usage()

    def add() -> None:
        for number in range(5_000):
            usage.add_model(f"m{number}", 1, 1)
            usage.add_peer(f"p{number}", Usage(turns=1))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=add)
    try:
        thread.start()
        while thread.is_alive():
            usage.total()
            usage.all_turns()
            usage.to_json()
    finally:
        sys.setswitchinterval(before)
        thread.join(10)
    assert (usage.total()["total_tokens"], usage.all_turns()) == (10_000, 5_000)


def nested(depth: int) -> dict[str, Any]:
    """A tree of one branch."""
    return {"turns": 1, **({"peers": {"p": nested(depth - 1)}} if depth else {})}


@pytest.mark.parametrize(
    "raw",
    [
        None, 7, "x", [], {"turns": -1}, {"turns": True}, {"turns": 1.5}, {"turns": 2**53 + 1}, {"models": []},
        {"models": {"m": 3}}, {"models": {"m": {"input_tokens": -1}}}, {"models": {"n" * 300: {}}}, {"peers": {"p": 1}},
        {"peers": {"p": {"turns": "many"}}}, nested(MAX_DEPTH + 1),
        {"models": {str(i): {} for i in range(MAX_NODES + 1)}},
        {"peers": {str(i): {"models": {"m": {}}} for i in range(MAX_NODES // 2 + 1)}},
    ],
)  # fmt: skip
def test_usage_that_makes_no_sense_is_empty(raw: Any) -> None:
    assert Usage.decode(raw) == Usage()


def test_usage_at_the_limits_is_read() -> None:
    assert Usage.decode(nested(MAX_DEPTH)).all_turns() == MAX_DEPTH + 1
    assert len(Usage.decode({"models": {str(i): {} for i in range(MAX_NODES)}}).models) == MAX_NODES


def test_what_an_asker_grants_is_clamped_by_the_receiver() -> None:
    turn = Turn.of(incoming(budget=Budget("r", 2**53, 5, 2**53)), max_turns=20, max_tokens=1000, max_ms=60_000)
    assert turn.budget == Budget("r", 20, 5, 60_000)
    fresh = Turn.of(incoming(), max_turns=3)
    assert (fresh.budget.root, fresh.budget.turns) == ("m1", 3)


def test_an_ask_inside_a_turn_carries_what_is_left() -> None:
    turn = Turn.of(incoming(hops=1, chain=("a",), budget=Budget("r", 5, 100, 60_000)))
    turn.spent.add_model("m", 20, 10)
    turn.spent.add_peer("c", Usage(turns=2))
    place = turn.place("me")
    assert (place.hops, place.chain) == (2, ("a", "me"))
    assert place.budget is not None
    assert (place.budget.root, place.budget.turns, place.budget.tokens) == ("r", 2, 70)  # this turn is one of the five
    assert 59_000 < place.budget.ms <= 60_000
    assert turn.timeout(None) <= 29.75
    assert turn.timeout(1.0) == 1.0


@pytest.mark.parametrize(
    ("budget", "what"),
    [(Budget("r", 1, 9, 9000), "turns"), (Budget("r", 2, 0, 9000), "tokens"), (Budget("r", 2, 9, 0), "ms")],
)
def test_a_used_up_budget_asks_nobody(budget: Budget, what: str) -> None:
    with pytest.raises(MeshError, match=f"{what} of request 'r' are used up") as caught:
        Turn.of(incoming(budget=budget)).place("me")
    assert (caught.value.code, caught.value.executed) == ("budget_exceeded", "no")


def test_outside_of_a_turn_there_is_no_place_and_what_the_caller_says_wins() -> None:
    assert place_of(None, "me", None, None) == Place()
    assert place_of(None, "me", 3, ["x"]) == Place(3, ("x",))
    turn = Turn.of(incoming(hops=4, chain=("a",)))
    assert place_of(turn, "me", None, None)[:2] == (5, ("a", "me"))
    assert place_of(turn, "me", 0, ())[:2] == (0, ())


def test_a_turn_whose_time_is_over_leaves_no_time_to_ask() -> None:
    turn = Turn.of(incoming())
    turn.deadline = time.monotonic() - 1
    assert turn.timeout(60.0) == 0.001


def test_interrupts_of_a_reply_are_read_and_nonsense_is_left_out() -> None:
    def reply(meta: dict[str, Any]) -> Reply:
        return Reply("x", "b", "c1", "m1", "memory", meta=meta)

    good = [{"id": "i1", "value": {"question": "sure?"}}, {"id": 5}, "x", {"value": 1}, {"id": "i2"}]
    assert reply({"interrupts": good}).interrupts == (
        RemoteInterrupt("i1", {"question": "sure?"}),
        RemoteInterrupt("i2", None),
    )
    assert reply({"interrupts": "x"}).interrupts == reply({}).interrupts == ()
    assert len(reply({"interrupts": [{"id": str(i)} for i in range(500)]}).interrupts) == 64
    assert reply({"usage": {"turns": 2}}).usage == Usage(turns=2)
    assert reply({"usage": "lots"}).usage == Usage()
