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


def code(refused: MeshError | None) -> str:
    return "" if refused is None else refused.code


def test_turns_of_one_root_end_and_those_of_another_do_not() -> None:
    books = ledger(max_turns=3)
    assert [code(books.admit(message(n, root="r"), 0.0)) for n in range(4)] == ["", "", "", "budget_exceeded"]
    refused = books.admit(message(9, root="r", peer="q"), 0.0)
    assert refused is not None, "the tree is one, whoever of it asks"
    assert "3 turns, the limit here is 3" in refused.message
    assert not refused.retryable
    assert books.admit(message(5, root="s"), 0.0) is None


def test_tokens_of_one_root_end() -> None:
    books = ledger(max_tokens=100)
    assert books.admit(message(1, root="r"), 0.0) is None
    books.spent("r", 99)
    assert books.admit(message(2, root="r"), 0.0) is None
    assert books.budget(message(2, root="r"), 0.0).tokens == 1
    books.spent("r", 1)
    refused = books.admit(message(3, root="r"), 0.0)
    assert refused is not None
    assert "100 tokens, the limit here is 100" in refused.message


def test_seconds_of_one_root_end() -> None:
    books = ledger(max_seconds=60)
    assert books.admit(message(1, root="r"), 100.0) is None
    assert books.admit(message(2, root="r"), 159.9) is None
    refused = books.admit(message(3, root="r"), 160.0)
    assert refused is not None
    assert "60 s, the limit here is 60 s" in refused.message


@pytest.mark.parametrize(("left", "word"), [((0, 5, 5), "turns"), ((5, 0, 5), "tokens"), ((5, 5, 0), "ms")])
def test_nothing_left_by_the_askers_word(left: tuple[int, int, int], word: str) -> None:
    refused = ledger().admit(message(1, budget=Budget("r", *left)), 0.0)
    assert refused is not None
    assert (refused.code, word in refused.message) == ("budget_exceeded", True)


def test_budget_is_the_least_of_what_the_asker_says_and_what_we_count() -> None:
    books = ledger(max_turns=10, max_tokens=500, max_seconds=10)
    generous, poor = Budget("r", 9999, 10**9, 10**9), Budget("s", 2, 3, 4)
    assert books.admit(message(1, budget=generous), 0.0) is None
    assert books.admit(message(2, budget=generous), 4.0) is None
    books.spent("r", 100)
    assert books.budget(message(2, budget=generous), 4.0) == Budget("r", 9, 400, 6000)
    assert books.admit(message(3, budget=poor), 0.0) is None
    assert books.budget(message(3, budget=poor), 0.0) == poor


def test_peer_that_names_a_fresh_root_each_time_is_bounded() -> None:
    """A flood of 10 minutes, 10 messages a second, each as if it were a new request of no hops."""
    books = ledger(max_turns_per_minute=120)
    took = sum(books.admit(message(n), n / 10) is None for n in range(6000))
    assert took <= 120 * 11
    assert took >= 120 * 10
    books.admit(message(6001), 599.9)
    refused = books.admit(message(6002), 599.9)
    assert refused is not None
    assert refused.code == "budget_exceeded"
    assert "120 turns within a minute" in refused.message
    assert refused.retryable, "later it may start one again"
    assert books.admit(message(6003, peer="q"), 599.9) is None, "another peer is not held up"
    assert books.admit(message(6004), 601.0) is None


def test_messages_that_share_a_turn_count_once() -> None:
    books = ledger(max_turns=2)
    assert books.admit(message(1, root="r"), 0.0) is None
    assert all(books.admit(message(n, root="r"), 0.0, joins=True) is None for n in range(2, 30))
    assert books.admit(message(30, root="r"), 0.0) is None
    assert code(books.admit(message(31, root="r"), 0.0)) == "budget_exceeded"


def test_refused_message_costs_nothing() -> None:
    books = ledger(max_turns=2, max_repeats=1)
    assert books.admit(message(1, root="r", text="same"), 0.0) is None
    for n in range(50):
        assert code(books.admit(message(n, root="r", text="same"), 0.0)) == "repeated"
    assert books.admit(message(60, root="r"), 0.0) is None, "the second turn is still there"


def test_same_text_again_and_again_is_refused_until_something_else_is_said() -> None:
    books = ledger(max_repeats=3)
    said = [code(books.admit(message(n, text="ok, thanks!"), float(n))) for n in range(5)]
    assert said == ["", "", "", "repeated", "repeated"]
    assert books.admit(message(6, text="ok, thanks!", conversation="d"), 6.0) is None
    assert books.admit(message(7, text="ok, thanks!", peer="q"), 6.0) is None
    assert books.admit(message(8, text="ok, thanks!", skill="s"), 7.0) is None
    assert books.admit(message(9, text="ok, thanks!"), 8.0) is None


def test_loop_that_goes_on_stays_refused_and_a_daily_question_is_none() -> None:
    books = ledger(max_repeats=2)
    hourly = [books.admit(message(n, text="weather?"), n * 3600.0) for n in range(10)]
    assert hourly == [None] * 10
    books = ledger(max_repeats=2)
    slow = [code(books.admit(message(n, text="ping"), n * 500.0)) for n in range(10)]
    assert slow == ["", "", *["repeated"] * 8]


def test_answers_to_pauses_are_no_repetition() -> None:
    books = ledger(max_repeats=1)
    for n in range(5):
        resume = {"resume": {"of": f"m{n}", "values": {"i": True}}}
        assert books.admit(message(n, text=" ", meta=resume), 0.0) is None


def test_lone_surrogates_in_a_text_do_not_break_the_books() -> None:
    assert ledger().admit(message(1, text="\ud800"), 0.0) is None


def test_tables_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_ROOTS", "MAX_PEERS", "MAX_CONVERSATIONS"):
        monkeypatch.setattr(budget_ledger, name, 10)
    books = ledger()
    for n in range(100):
        books.admit(message(n, peer=f"p{n}", conversation=f"c{n}"), 0.0)
    assert [len(t) for t in (books._roots, books._rates, books._said)] == [10, 10, 10]
    books.spent("m0", 5)  # forgotten: nothing to count it for, and no new entry
    assert len(books._roots) == 10
