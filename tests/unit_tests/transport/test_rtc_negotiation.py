"""The table of offers: who answers, who insists, who begins anew."""

from __future__ import annotations

import pytest

from chatixia_langchain.protocol.signaling import SdpPayload
from chatixia_langchain.transport.rtc_negotiation import Decision, Role, on_offer

ONE, TWO = "0" * 16, "1" * 16


@pytest.mark.parametrize(
    ("me", "peer", "connection", "restart", "pending", "decision"),
    [
        ("a", "b", ONE, None, None, "answer"),
        ("a", "b", None, None, None, "answer"),  # an old peer names nothing
        ("a", "b", ONE, None, ("offerer", TWO), "ignore"),  # glare: ours stands
        ("b", "a", ONE, None, ("offerer", TWO), "answer"),  # glare: theirs stands
        ("B", "a", ONE, None, ("offerer", TWO), "ignore"),  # by bytes: capitals come first
        ("a10", "a9", ONE, None, ("offerer", TWO), "ignore"),
        ("a", "b", None, None, ("offerer", TWO), "ignore"),
        ("a", "b", ONE, None, ("answerer", ONE), "ignore"),  # the same offer once more
        ("a", "b", TWO, None, ("answerer", ONE), "answer"),  # it began anew
        ("a", "b", None, None, ("answerer", None), "answer"),  # an old peer began anew
        ("a", "b", ONE, True, None, "redial"),
        ("b", "a", ONE, True, None, "redial"),
        ("a", "b", ONE, True, ("offerer", TWO), "ignore"),
        ("a", "b", ONE, True, ("answerer", TWO), "ignore"),
        ("a", "b", ONE, False, None, "answer"),
    ],
)
def test_decision(
    me: str,
    peer: str,
    connection: str | None,
    restart: bool | None,
    pending: tuple[Role, str | None] | None,
    decision: Decision,
) -> None:
    assert on_offer(me, peer, SdpPayload("v=0", 1, connection, restart), pending) == decision


@pytest.mark.parametrize(("a", "b"), [("a", "b"), ("a", "B"), ("a9", "a10"), ("x", "x-1"), ("0", "_")])
def test_of_two_that_offer_at_once_exactly_one_answers(a: str, b: str) -> None:
    at_a = on_offer(a, b, SdpPayload("v=0", 1, TWO), ("offerer", ONE))
    at_b = on_offer(b, a, SdpPayload("v=0", 1, ONE), ("offerer", TWO))
    assert sorted((at_a, at_b)) == ["answer", "ignore"]
