"""Token buckets: bursts, refill, one caller beside another."""

from __future__ import annotations

from chatixia_langchain.registry.limits import Buckets


def test_a_burst_then_the_rate() -> None:
    buckets = Buckets(per_s=2, burst=3)
    assert [buckets.take("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert [buckets.take("a", t) for t in (0.4, 0.6, 0.7, 1.1)] == [False, True, False, True]


def test_one_caller_does_not_use_up_anothers_tokens() -> None:
    buckets = Buckets(per_s=1, burst=1)
    assert buckets.take("a", 0.0)
    assert not buckets.take("a", 0.0)
    assert buckets.take("b", 0.0)


def test_a_bucket_holds_no_more_than_the_burst() -> None:
    buckets = Buckets(per_s=1, burst=2)
    assert buckets.take("a", 0.0)
    assert [buckets.take("a", 1e9) for _ in range(3)] == [True, True, False]


def test_a_clock_that_steps_back_gives_and_takes_nothing() -> None:
    buckets = Buckets(per_s=1, burst=1)
    assert buckets.take("a", 10.0)
    assert not buckets.take("a", 5.0)


def test_delay_adds_up_until_it_is_paid() -> None:
    buckets = Buckets(per_s=10, burst=2)
    assert [round(buckets.delay("a", 0.0), 3) for _ in range(4)] == [0, 0, 0.1, 0.2]
    assert buckets.delay("a", 0.5) == 0


def test_callers_that_are_remembered_are_bounded() -> None:
    buckets = Buckets(per_s=0.001, burst=1, limit=2)
    for name in ("a", "b", "c"):
        assert buckets.take(name, 0.0)
    assert not buckets.take("c", 0.0)
    assert buckets.take("a", 0.0), "the one not heard of for longest was forgotten"
