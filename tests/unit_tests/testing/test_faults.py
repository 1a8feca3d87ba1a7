"""The fates of frames come from the seed alone."""

from __future__ import annotations

from typing import Any

import pytest

from chatixia_langchain.testing.faults import Faults

BAD: Any = {"loss": 0.3, "duplicate": 0.2, "delay": (0.001, 0.01)}


def fates(n: int = 400, sender: str = "a", **faults: Any) -> list[tuple[float, ...]]:
    drawn = Faults(**faults).between(sender, "b")
    return [drawn.next().delays_s for _ in range(n)]


def test_one_seed_is_one_history() -> None:
    assert fates(**BAD, seed=1) == fates(**BAD, seed=1)
    assert fates(**BAD, seed=1) != fates(**BAD, seed=2)
    assert fates(**BAD, seed=1) != fates(**BAD, seed=1, sender="c"), "each direction has its own"


def test_the_chances_are_those_asked_for() -> None:
    drawn = fates(4000, **BAD)
    assert 0.27 < sum(not d for d in drawn) / 4000 < 0.33
    assert 0.11 < sum(len(d) == 2 for d in drawn) / 4000 < 0.17, "0.2 of those that are not lost"
    delays = [s for d in drawn for s in d]
    assert 0.001 <= min(delays) < 0.002
    assert 0.009 < max(delays) <= 0.01


def test_more_loss_leaves_the_delays_of_the_rest_as_they_were() -> None:
    few, many = fates(**BAD), fates(**{**BAD, "loss": 0.6})
    assert all(f == m for f, m in zip(few, many, strict=True) if m)
    assert sum(map(bool, few)) > sum(map(bool, many))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"loss": 1.0}, "loss=1.0 .* use a partition"),
        ({"duplicate": -0.1}, "duplicate=-0.1"),
        ({"delay": -1.0}, "delay=-1.0"),
        ({"delay": (0.2, 0.1)}, "range"),
        ({"reorder": True}, "reorder needs a range of delays"),
        ({"reorder": True, "delay": 0.1}, "reorder needs a range of delays"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Faults(**wrong)
