"""What peers used is counted here, by our own clock and names; a peer that lies gains nothing."""

from __future__ import annotations

from typing import Any

import pytest

from chatixia_langchain import InboundPolicy, Incoming, MeshError
from chatixia_langchain.agent import budget_ledger
from chatixia_langchain.agent.budget_ledger import BudgetLedger
from chatixia_langchain.mesh.budget import Budget


def ledger(**limits: Any) -> BudgetLedger:
    return BudgetLedger(InboundPolicy(**limits))


def message(
    n: int, *, root: str = "", peer: str = "p", text: str = "", conversation: str = "c", **more: Any
) -> Incoming:
    """Message number `n`: a text and an id of its own, of root request `root`."""
    budget = Budget(root, 1000, 10**6, 10**7) if root else None
    return Incoming(peer, text or f"text {n}", conversation, f"m{n}", True, **{"budget": budget, **more})


def admit(books: BudgetLedger, said: Incoming, now: float) -> MeshError | None:
    """Why a message may not start a turn of its own; None when it may."""
    _, refused = books.admit([said], now)
    return refused[0][1] if refused else None


def code(refused: MeshError | None) -> str:
    return "" if refused is None else refused.code


def test_turns_of_one_root_end_and_those_of_another_do_not() -> None:
    books = ledger(max_turns=3)
    assert [code(admit(books, message(n, root="r"), 0.0)) for n in range(4)] == ["", "", "", "budget_exceeded"]
    refused = admit(books, message(9, root="r", peer="q"), 0.0)
    assert refused is not None, "the tree is one, whoever of it asks"
    assert "3 turns, the limit here is 3" in refused.message
    assert not refused.retryable
    assert admit(books, message(5, root="s"), 0.0) is None


def test_tokens_of_one_root_end() -> None:
    books = ledger(max_tokens=100)
    assert admit(books, message(1, root="r"), 0.0) is None
    books.spent("r", 99)
    assert admit(books, message(2, root="r"), 0.0) is None
    assert books.budget(message(2, root="r"), 0.0).tokens == 1
    books.spent("r", 1)
    refused = admit(books, message(3, root="r"), 0.0)
    assert refused is not None
    assert "100 tokens, the limit here is 100" in refused.message


def test_seconds_of_one_root_end() -> None:
    books = ledger(max_seconds=60)
    assert admit(books, message(1, root="r"), 100.0) is None
    assert admit(books, message(2, root="r"), 159.9) is None
    refused = admit(books, message(3, root="r"), 160.0)
    assert refused is not None
    assert "60 s, the limit here is 60 s" in refused.message


@pytest.mark.parametrize(("left", "word"), [((0, 5, 5), "turns"), ((5, 0, 5), "tokens"), ((5, 5, 0), "ms")])
def test_nothing_left_by_the_askers_word(left: tuple[int, int, int], word: str) -> None:
    refused = admit(ledger(), message(1, budget=Budget("r", *left)), 0.0)
    assert refused is not None
    assert (refused.code, word in refused.message) == ("budget_exceeded", True)


def test_budget_is_the_least_of_what_the_asker_says_and_what_we_count() -> None:
    books = ledger(max_turns=10, max_tokens=500, max_seconds=10)
    generous, poor = Budget("r", 9999, 10**9, 10**9), Budget("s", 2, 3, 4)
    assert admit(books, message(1, budget=generous), 0.0) is None
    assert admit(books, message(2, budget=generous), 4.0) is None
    books.spent("r", 100)
    assert books.budget(message(2, budget=generous), 4.0) == Budget("r", 9, 400, 6000)
    assert admit(books, message(3, budget=poor), 0.0) is None
    assert books.budget(message(3, budget=poor), 0.0) == poor


def test_peer_that_names_a_fresh_root_each_time_is_bounded() -> None:
    """A flood of 10 minutes, 10 messages a second, each as if it were a new request of no hops."""
    books = ledger(max_turns_per_minute=120)
    took = sum(admit(books, message(n), n / 10) is None for n in range(6000))
    assert took <= 120 * 11
    assert took >= 120 * 10
    admit(books, message(6001), 599.9)
    refused = admit(books, message(6002), 599.9)
    assert refused is not None
    assert refused.code == "budget_exceeded"
    assert "120 turns within a minute" in refused.message
    assert refused.retryable, "later it may start one again"
    assert admit(books, message(6003, peer="q"), 599.9) is None, "another peer is not held up"
    assert admit(books, message(6004), 601.0) is None


def test_messages_that_share_a_turn_count_once_for_each_root() -> None:
    books = ledger(max_turns=2, max_turns_per_minute=3)
    together = [message(n, root="r") for n in range(30)] + [message(40, root="s")]
    assert books.admit(together, 0.0) == (together, [])
    assert books.budget(together[0], 0.0).turns == 2, "its own is not taken off yet"
    assert admit(books, message(50, root="r"), 0.0) is None
    taken, refused = books.admit([message(51, root="r"), message(52, root="s")], 0.0)
    assert [m.message_id for m in taken] == ["m52"], "one that is used up takes no other along"
    assert [(m.message_id, e.code) for m, e in refused] == [("m51", "budget_exceeded")]
    assert "within a minute" in str(admit(books, message(53, root="t"), 0.0))


def test_refused_message_costs_nothing() -> None:
    books = ledger(max_turns=2, max_repeats=1)
    assert admit(books, message(1, root="r", text="same"), 0.0) is None
    for n in range(50):
        assert code(admit(books, message(n, root="r", text="same"), 0.0)) == "repeated"
    assert admit(books, message(60, root="r"), 0.0) is None, "the second turn is still there"


def test_same_text_again_and_again_is_refused_until_something_else_is_said() -> None:
    books = ledger(max_repeats=3)
    said = [code(admit(books, message(n, text="ok, thanks!"), float(n))) for n in range(5)]
    assert said == ["", "", "", "repeated", "repeated"]
    assert admit(books, message(6, text="ok, thanks!", conversation="d"), 6.0) is None
    assert admit(books, message(7, text="ok, thanks!", peer="q"), 6.0) is None
    assert admit(books, message(8, text="ok, thanks!", skill="s"), 7.0) is None
    assert admit(books, message(9, text="ok, thanks!"), 8.0) is None


def test_loop_that_goes_on_stays_refused_and_a_daily_question_is_none() -> None:
    books = ledger(max_repeats=2)
    hourly = [admit(books, message(n, text="weather?"), n * 3600.0) for n in range(10)]
    assert hourly == [None] * 10
    books = ledger(max_repeats=2)
    slow = [code(admit(books, message(n, text="ping"), n * 500.0)) for n in range(10)]
    assert slow == ["", "", *["repeated"] * 8]


def test_answers_to_pauses_are_no_repetition() -> None:
    books = ledger(max_repeats=1)
    for n in range(5):
        resume = {"resume": {"of": f"m{n}", "values": {"i": True}}}
        assert admit(books, message(n, text=" ", meta=resume), 0.0) is None


def test_lone_surrogates_in_a_text_do_not_break_the_books() -> None:
    assert admit(ledger(), message(1, text="\ud800"), 0.0) is None


def test_flood_that_is_refused_makes_nobody_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer over its rate names a thousand roots and conversations: what another has used up stays used up."""
    for name in ("MAX_ROOTS", "MAX_CONVERSATIONS"):
        monkeypatch.setattr(budget_ledger, name, 10)
    books = ledger(max_turns=1, max_repeats=1, max_turns_per_minute=5)
    assert admit(books, message(0, root="r", peer="q", text="same"), 0.0) is None
    for n in range(1000):
        admit(books, message(n, root=f"fresh{n}", peer="flood", conversation=f"c{n}"), 0.0)
    assert code(admit(books, message(1, root="r", peer="q"), 0.0)) == "budget_exceeded"
    assert code(admit(books, message(2, root="s", peer="q", text="same"), 0.0)) == "repeated"


def test_tables_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_ROOTS", "MAX_PEERS", "MAX_CONVERSATIONS"):
        monkeypatch.setattr(budget_ledger, name, 10)
    books = ledger()
    for n in range(100):
        admit(books, message(n, peer=f"p{n}", conversation=f"c{n}"), 0.0)
    assert [len(t) for t in (books._roots, books._rates, books._said)] == [10, 10, 10]
    books.spent("m0", 5)  # forgotten: nothing to count it for, and no new entry
    assert len(books._roots) == 10
