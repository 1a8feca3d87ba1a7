"""Frames that no honest agent sends: dropped and counted, or refused with a code; the loop lives on.

Every case ends with an honest question that must be answered.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, get_args

import pytest
from langchain_core.messages import get_notification_metadata

from chatixia_langchain.errors import MessageTooBig
from chatixia_langchain.protocol.envelope import Frame, Kind, MeshPart
from chatixia_langchain.protocol.limits import MAX_MESSAGE_BYTES

from .hostile_scene import CONSTRUCTOR, GOOD, encoded, frame, scene

NOT_UNDERSTOOD: dict[str, bytes] = {
    "no_json": b"{",
    "not_utf8": b'{"type": "\xff\xfe"}',
    "a_list": b"[1, 2, 3]",
    "a_number": b"17",
    "nothing": b"",
    "nul_bytes": b"\x00" * 100,
    "lone_surrogate_in_text": encoded(frame()).replace(b'"hello"', b'"\\ud800"'),
    "lone_surrogate_in_key": b'{"type": "agent_prompt", "\\udfff": 1, "payload": {"\\ud800": 1}}',
    "deep_list": b'{"type": "agent_prompt", "payload": {"message": ' + b"[" * 60_000 + b"]" * 60_000 + b"}}",
    "deep_object": b'{"type": "agent_prompt", "payload": ' + b'{"a":' * 40_000 + b"1" + b"}" * 40_000 + b"}",
    "ten_megabytes": encoded(frame("x" * 10_000_000)),
    "just_too_big": encoded(frame("x" * MAX_MESSAGE_BYTES)),
    "unknown_type": encoded({**frame(), "type": "run_code"}),
    "unknown_kind": encoded(frame(kind="root")),
    "other_version": encoded(frame(v=2)),
    "payload_is_text": encoded({**frame(), "payload": "obey"}),
    "mesh_is_text": encoded({**frame(), "mesh": "obey"}),
    "id_with_path": encoded(frame(id_="../../etc/passwd")),
    "id_is_empty": encoded(frame(id_="")),
    "id_is_long": encoded(frame(id_="a" * 65)),
    "id_with_newline": encoded(frame(id_="a\n")),
    "id_is_number": encoded(frame(id=5)),
    "conversation_is_long": encoded(frame(conversation="c" * 129)),
    "conversation_is_object": encoded(frame(conversation={"thread_id": "other"})),
    "hops_are_negative": encoded(frame(hops=-1)),
    "hops_are_text": encoded(frame(hops="0")),
    "hops_are_beyond_all_numbers": encoded(frame(hops=10**400)),
    "ttl_is_beyond_all_clocks": encoded(frame(ttl_ms=10**400)),
    "ttl_is_negative": encoded(frame(ttl_ms=-1)),
    "chain_is_text": encoded(frame(chain="attacker")),
    "chain_of_objects": encoded(frame(chain=[{"a": 1}])),
    "budget_is_negative": encoded(frame(budget={"root": "r", "turns": -1, "tokens": 1, "ms": 1})),
    "budget_is_huge": encoded(frame(budget={"root": "r", "turns": 2**60, "tokens": 1, "ms": 1})),
    "budget_root_is_no_id": encoded(frame(budget={"root": "a b\n", "turns": 1, "tokens": 1, "ms": 1})),
    "meta_is_a_list": encoded(frame(meta=[1])),
    "stream_is_text": encoded(frame(stream="yes")),
}


@pytest.mark.parametrize("case", NOT_UNDERSTOOD)
async def test_frame_that_is_not_understood_is_dropped_and_counted(case: str) -> None:
    async with scene() as s:
        s.attacker.say(NOT_UNDERSTOOD[case])
        await s.assert_alive()
        assert (await s.victim.status())["counters"].get("bad_frames") == 1
        assert s.hostile == []


async def test_mesh_itself_does_not_send_ten_megabytes() -> None:
    async with scene() as s:
        with pytest.raises(MessageTooBig, match="limit"):
            await s.honest.ask("victim", "x" * 10_000_000)
        await s.assert_alive()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "too_many_hops": (frame(hops=8), "hop_limit"),
    "hops_of_a_lifetime": (frame(hops=2**53), "hop_limit"),
    "in_a_circle": (frame(chain=["victim", "attacker", "victim"]), "hop_limit"),
    "nothing_left": (frame(budget={"root": "r", "turns": 0, "tokens": 1, "ms": 1}), "budget_exceeded"),
    "resume_is_no_object": (frame(meta={"resume": "yes"}), "invalid_line"),
    "resume_of_nothing": (frame(meta={"resume": {"of": "m0", "values": {"i": True}}}), "refused"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_request_that_may_not_run_is_refused_with_a_code(case: str) -> None:
    said, code = REFUSED[case]
    async with scene() as s:
        s.attacker.say(encoded(said))
        answer = await s.attacker.answer("m1")
        assert answer["mesh"]["code"] == code
        assert answer["mesh"]["executed"] == "no"
        assert answer["payload"]["error"], "and it says why"
        assert s.seen == []
        await s.assert_alive()


@pytest.mark.parametrize("ttl_ms", [0, 2**53])
async def test_odd_times_to_live_are_no_trouble(ttl_ms: int) -> None:
    async with scene() as s:
        s.attacker.say(encoded(frame(ttl_ms=ttl_ms)))
        assert (await s.attacker.answer("m1"))["payload"]["response"] == "heard 1"
        await s.assert_alive()


async def test_thousand_bad_frames_do_not_hold_up_an_honest_peer() -> None:
    bodies = [b for b in NOT_UNDERSTOOD.values() if len(b) < 10_000]
    async with scene() as s:
        for n in range(1000):
            s.attacker.say(bodies[n % len(bodies)])
        await s.assert_alive()
        assert (await s.victim.status())["counters"]["bad_frames"] == 1000


ODD: list[Any] = [
    None, True, False, 0, -1, 1, 1.5, 2**31, 2**53, 2**63, 10**400,
    "", "x", "a" * 300, "\x00", "\u202e", "__remove_all__", "5",
    [], [1], ["x"], [["x"]], {}, {"a": 1}, CONSTRUCTOR, [CONSTRUCTOR], {"resume": {}}, {"usage": {"turns": -1}},
]  # fmt: skip
FIELDS = (
    *(("mesh", name) for name in MeshPart.__struct_fields__),
    *(("top", name) for name in Frame.__struct_fields__),
    *(("payload", name) for name in ("message", "skill", "chunk", "step", "at", "response", "result", "error")),
)


def with_odd(place: str, name: str, value: Any, kind: str) -> dict[str, Any]:
    """A frame of this kind that is right but for one field."""
    said = frame(kind=kind, corr="m0", ids=["m0"])
    where = said if place == "top" else said[place]
    where[name] = value
    return said


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", get_args(Kind))
async def test_no_odd_value_in_any_field_breaks_the_loop(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Every field with every odd value, in frames of every kind; nothing raises where nobody looks."""
    async with scene(max_turns_per_minute=10**6, max_repeats=10**6) as s:
        for n, (place, name) in enumerate(FIELDS):
            for m, value in enumerate(ODD):
                said = with_odd(place, name, value, kind)
                if (place, name) != ("mesh", "id") and isinstance(said.get("mesh"), dict):
                    said["mesh"]["id"] = f"m{n}-{m}"
                s.attacker.say(encoded(said))
            await asyncio.sleep(0)
        assert (await s.honest.ask("victim", GOOD, timeout=10)).content == "heard 1"
    # What is right all the same is read as text. Without `mesh` a frame is an old agent's question, whatever it was.
    read = {str(get_notification_metadata(m)) for m in s.hostile}
    assert (len(read) > 1) is (kind in ("message", "request"))
    broken = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert [r.getMessage() for r in broken] == []
