"""Who may start turns: the rules that need no memory."""

from __future__ import annotations

from typing import Any

import pytest

from chatixia_langchain import InboundPolicy, Incoming


def message(**more: Any) -> Incoming:
    return Incoming("p", "hello", "c", "m1", True, **more)


@pytest.mark.parametrize(
    ("policy", "more", "code"),
    [
        ({"allow_peers": ["q"]}, {}, "refused"),
        ({"allow_peers": ["p"]}, {}, None),
        ({"allow_peers": []}, {}, "refused"),
        ({"max_hops": 2}, {"hops": 2}, "hop_limit"),
        ({"max_hops": 2}, {"hops": 1}, None),
        ({}, {"chain": ("me", "q", "me", "p")}, "hop_limit"),
        ({}, {"chain": ("me", "p")}, None),
        ({"max_visits": 0}, {"chain": ("me", "p")}, "hop_limit"),
        ({}, {"skill": "fly"}, "unknown_skill"),
        ({}, {"skill": "swim"}, None),
    ],
)
def test_refusals(policy: dict[str, Any], more: dict[str, Any], code: str | None) -> None:
    refused = InboundPolicy(**policy).refuse("me", message(**more), ["swim"])
    assert (None if refused is None else refused.code) == code
    assert refused is None or refused.executed == "no"


def test_default_lets_peers_use_no_tool() -> None:
    assert InboundPolicy().turn_tools == frozenset()
    assert InboundPolicy(tools=["a", "b"]).turn_tools == {"a", "b"}
    assert InboundPolicy(tools="all").turn_tools is None


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"tools": "delete_file"}, "collection of names"),  # a str is a collection of letters
        ({"allow_peers": "bob"}, "collection of names"),  # and `in` would let the peer "b" through
        ({"approvals": "nobody"}, "approvals"),
        ({"max_hops": 0}, "max_hops"),
        ({"max_turns": 0}, "max_turns"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_repeats": 0}, "max_repeats"),
        ({"max_seconds": 0}, "max_seconds"),
        ({"max_turns_per_minute": 0}, "max_turns_per_minute"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        InboundPolicy(**wrong)
