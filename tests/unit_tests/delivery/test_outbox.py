"""The outbox: order, window, resend, busy, deadlines. Time is moved by hand."""

from math import inf

import pytest

from chatixia_langchain.delivery.outbox import DONE, RESEND_FIRST_S, RESEND_MAX_S, Entry, Outbox


def entry(id_: str, *, size: int = 10, deadline: float = inf, kind: str = "message") -> Entry:
    return Entry(id_, b"x" * size, kind, 0.0, deadline)


def send_all(outbox: Outbox, now: float) -> list[str]:
    sent = []
    while (head := outbox.head(now)) is not None:
        outbox.sent(head, now, "host/host")
        sent.append(head.id)
    return sent


def test_entries_go_in_order_of_acceptance() -> None:
    outbox = Outbox()
    for n in range(5):
        outbox.add(entry(f"m{n}"))
    assert send_all(outbox, 0.0) == ["m0", "m1", "m2", "m3", "m4"]
    assert send_all(outbox, 0.0) == []


def test_window_is_bounded_by_messages_and_bytes_and_an_ack_makes_room() -> None:
    outbox = Outbox(max_messages=2, max_bytes=100)
    outbox.add(entry("a", size=90))
    assert not outbox.has_room(20)
    assert outbox.has_room(10)
    outbox.add(entry("b", size=1))
    assert not outbox.has_room(1)
    assert outbox.ack("a") is not None
    assert outbox.has_room(90)


def test_a_message_larger_than_the_window_fits_an_empty_one() -> None:
    assert Outbox(max_bytes=10).has_room(1000)


def test_replies_do_not_use_the_window() -> None:
    outbox = Outbox(max_messages=1)
    outbox.add(entry("r", kind="reply"))
    assert outbox.has_room(10)


def test_an_id_on_its_way_is_not_accepted_twice() -> None:
    outbox = Outbox()
    outbox.add(entry("a"))
    with pytest.raises(ValueError, match="'a'"):
        outbox.add(entry("a"))


def test_unacknowledged_goes_again_after_one_second_doubling_to_five() -> None:
    outbox, now, waits = Outbox(), 0.0, []
    outbox.add(entry("a"))
    for _ in range(5):
        assert send_all(outbox, now) == ["a"]
        before = now
        now = outbox.next_at
        waits.append(now - before)
        assert outbox.tick(now, resend=True) == []
    assert waits == [RESEND_FIRST_S, 2.0, 4.0, RESEND_MAX_S, RESEND_MAX_S]


def test_nothing_is_resent_while_there_is_no_channel() -> None:
    outbox = Outbox()
    outbox.add(entry("a"))
    send_all(outbox, 0.0)
    outbox.tick(100.0, resend=False)
    assert outbox.head(100.0) is None


def test_reconnect_sends_everything_unacknowledged_in_order() -> None:
    outbox = Outbox()
    for id_ in "abcd":
        outbox.add(entry(id_))
    send_all(outbox, 0.0)
    outbox.ack("b")
    outbox.requeue()
    outbox.add(entry("e"))
    assert send_all(outbox, 0.1) == ["a", "c", "d", "e"]


def test_busy_holds_later_messages_and_keeps_the_order() -> None:
    outbox = Outbox()
    for id_ in "abc":
        outbox.add(entry(id_))
    send_all(outbox, 0.0)
    outbox.ack("a")
    outbox.busy(["b", "c"], 1.0)
    outbox.add(entry("d"))
    assert outbox.head(1.0) is None
    assert outbox.tick(1.0, resend=True) == []
    assert 1.0 < outbox.next_at < 1.5
    assert send_all(outbox, outbox.next_at) == ["b", "c", "d"]


def test_a_deadline_ends_an_entry_once_and_tells_which() -> None:
    outbox = Outbox()
    outbox.add(entry("late", deadline=5.0))
    outbox.add(entry("later", deadline=9.0))
    assert [e.id for e in outbox.tick(5.0, resend=True)] == ["late"]
    assert outbox.tick(6.0, resend=True) == []
    assert outbox.ack("late") is None
    assert [e.id for e in outbox.tick(9.0, resend=True)] == ["later"]
    assert len(outbox) == 0


def test_repeated_and_invented_acks_are_non_events() -> None:
    outbox = Outbox(max_messages=1)
    outbox.add(entry("a"))
    first = outbox.ack("a")
    assert first is not None
    assert first.state == DONE
    assert outbox.ack("a") is None
    assert outbox.ack("never") is None
    assert outbox.room == 1
