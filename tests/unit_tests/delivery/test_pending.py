"""Pending requests: only the peer that was asked ends one, and only once."""

from math import inf

import pytest

from chatixia_langchain.delivery.ids import IdSource
from chatixia_langchain.delivery.pending import Pending, Waiting
from chatixia_langchain.protocol.limits import is_message_id


def waiting(id_: str, peer: str = "b", deadline: float = inf) -> Waiting:
    return Waiting(id_, peer, 0.0, deadline, None)


def test_reply_of_another_peer_is_a_non_event() -> None:
    """H-15: any peer could answer another peer's request."""
    pending = Pending()
    pending.add(waiting("q", "b"))
    assert pending.match("mallory", "q") is None
    assert pending.forged == 1
    assert pending.match("b", "q") is not None


def test_second_reply_is_a_non_event() -> None:
    """H-16: the second of two replies killed the reader."""
    pending = Pending()
    pending.add(waiting("q"))
    assert pending.match("b", "q") is not None
    assert pending.match("b", "q") is None
    assert pending.late == 1


def test_deadlines_end_requests_in_time() -> None:
    pending = Pending()
    pending.add(waiting("slow", deadline=9.0))
    pending.add(waiting("quick", deadline=1.0))
    assert pending.next_at == 1.0
    assert pending.expire(0.5) == []
    assert [w.id for w in pending.expire(1.0)] == ["quick"]
    assert pending.next_at == 9.0
    assert "slow" in pending


def test_one_id_waits_once() -> None:
    pending = Pending()
    pending.add(waiting("q"))
    with pytest.raises(ValueError, match="'q'"):
        pending.add(waiting("q"))


def test_clear_gives_all_back() -> None:
    pending = Pending()
    pending.add(waiting("a"))
    pending.add(waiting("b"))
    assert [w.id for w in pending.clear()] == ["a", "b"]
    assert len(pending) == 0


def test_ids_are_legal_and_differ_between_runs() -> None:
    one, two = IdSource(), IdSource()
    ids = {source.next() for source in (one, two) for _ in range(1000)}
    assert len(ids) == 2000
    assert all(is_message_id(i) for i in ids)
    assert one.epoch != two.epoch
