"""The inbox of one peer: duplicates, refusals in order, requests answered once."""

from chatixia_langchain.delivery.acks import DELAY_S, MAX_BYTES, MAX_IDS, Acks
from chatixia_langchain.delivery.inbox import MAX_ANSWERS, REFUSED_FOR_S, REMEMBERED_S, Answer, Inbox, SeenIds, Verdict
from chatixia_langchain.delivery.session import Session


def test_a_repeated_message_is_seen() -> None:
    inbox = Inbox()
    assert inbox.accept("a", 0.0, room=True) is Verdict.NEW
    assert inbox.accept("a", 1.0, room=True) is Verdict.SEEN
    assert inbox.accept("a", 1.0, room=False) is Verdict.SEEN


def test_a_hundred_thousand_ids_are_remembered_and_memory_is_bounded() -> None:
    seen = SeenIds(1000)
    for n in range(5000):
        seen.add(f"m{n}", 0.0)
    assert all(f"m{n}" in seen for n in range(4000, 5000))
    assert len(seen) <= 2000


def test_ids_older_than_two_days_are_forgotten() -> None:
    seen = SeenIds()
    seen.add("a", 0.0)
    seen.add("b", REMEMBERED_S)
    assert "a" in seen
    seen.add("c", 2 * REMEMBERED_S)
    assert "a" not in seen
    assert "b" in seen


def test_after_a_refusal_later_messages_wait_for_the_refused_one() -> None:
    inbox = Inbox()
    assert inbox.accept("a", 0.0, room=False) is Verdict.REFUSED
    assert inbox.accept("b", 0.0, room=True) is Verdict.REFUSED
    assert inbox.accept("a", 0.1, room=True) is Verdict.NEW
    assert inbox.accept("b", 0.1, room=True) is Verdict.NEW


def test_a_refused_message_that_never_comes_again_does_not_block_for_ever() -> None:
    inbox = Inbox()
    inbox.accept("a", 0.0, room=False)
    assert inbox.accept("b", REFUSED_FOR_S, room=True) is Verdict.NEW
    inbox.accept("c", 0.0, room=False)
    inbox.cancel("c")
    assert inbox.accept("d", 0.0, room=True) is Verdict.NEW


def test_a_request_has_one_answer_and_a_repetition_gets_the_same() -> None:
    inbox = Inbox()
    inbox.accept("q", 0.0, room=True)
    assert inbox.start("q", object()) == 1
    assert inbox.again("q") is None
    answer = Answer("r1", b"{}", "reply")
    assert inbox.answer("q", answer)
    assert not inbox.answer("q", Answer("r2", b"{}", "reply"))
    assert inbox.again("q") == answer


def test_a_cancelled_request_may_be_asked_again_as_second_attempt() -> None:
    inbox, request = Inbox(), object()
    inbox.accept("q", 0.0, room=True)
    inbox.start("q", request)
    assert inbox.cancel("q") is request
    assert inbox.cancel("q") is None
    assert not inbox.answer("q", Answer("r", b"{}", "reply"))
    assert inbox.accept("q", 1.0, room=True) is Verdict.NEW
    assert inbox.start("q", request) == 2


def test_answers_are_kept_in_bounds_of_number_and_bytes() -> None:
    inbox = Inbox()
    for n in range(MAX_ANSWERS + 10):
        inbox.start(f"q{n}", object())
        inbox.answer(f"q{n}", Answer(f"r{n}", b"{}", "reply"))
    assert inbox.again("q0") is None
    assert inbox.again("q10") is not None
    for n in range(40):
        inbox.start(f"big{n}", object())
        inbox.answer(f"big{n}", Answer(f"rb{n}", b"x" * 262_144, "reply"))
    assert inbox.again("big0") is None
    assert inbox.again("big39") is not None


def test_acks_travel_together_and_a_full_batch_goes_at_once() -> None:
    acks = Acks()
    assert not any(acks.add(f"m{n}", "message", 10, 5.0) for n in range(MAX_IDS - 1))
    assert acks.due == 5.0 + DELAY_S["message"]
    assert acks.add("last", "message", 10, 5.0)
    assert len(acks.take()) == MAX_IDS
    assert len(acks) == 0
    assert acks.add("big", "message", MAX_BYTES, 6.0)


def test_a_reply_makes_the_ack_of_its_request_needless() -> None:
    acks = Acks()
    acks.add("q", "request", 10, 0.0)
    acks.implied("q")
    assert acks.take() == ()


def test_a_new_epoch_means_a_restart_only_after_an_old_one() -> None:
    session = Session()
    assert not session.new_epoch("e1")
    assert not session.new_epoch("e1")
    assert session.new_epoch("e2")
