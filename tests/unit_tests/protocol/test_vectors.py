"""The Python decoders agree with `protocol/vectors`, which the sidecar's tests read too."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chatixia_langchain.errors import InvalidLine
from chatixia_langchain.protocol import envelope, ipc, ipc_fast, signaling

VECTORS = Path(__file__).parents[3] / "protocol/vectors"
DECODERS: dict[str, Callable[[bytes], Any]] = {
    "to_sidecar": ipc.decode_command,
    "from_sidecar": ipc.decode_event,
    "to_registry": signaling.decode_to_registry,
    "from_registry": signaling.decode,
    "agent": envelope.decode,
}
ENCODERS: dict[str, Callable[[Any], str]] = {
    "to_sidecar": lambda f: ipc.encode(f).decode()[:-1],
    "from_sidecar": lambda f: ipc.encode(f).decode()[:-1],
    "to_registry": signaling.encode,
    "from_registry": signaling.encode,
    "agent": lambda f: envelope.encode(f).decode(),
}

KNOWN_TO_THE_REGISTRY_ALONE = ("forged_sender", "peer_offline")
"""Refusals of well-formed frames: whose socket it is and who is online is not in the frame."""


def vectors() -> Iterator[Any]:
    for file in sorted(VECTORS.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").split("\n"):  # not splitlines: U+2028 is no line end in JSON
            vector = json.loads(line or "{}")
            if vector and vector.get("only") != "sidecar":  # that sees a line before anybody else, and is stricter
                yield pytest.param(vector, id=f"{file.stem}-{vector['direction']}-{vector['name']}")


def raw(vector: dict[str, Any]) -> bytes:
    if "frame" in vector:
        return json.dumps(vector["frame"], separators=(",", ":"), ensure_ascii=False).encode()
    if "raw_hex" in vector:
        return bytes.fromhex(vector["raw_hex"])
    if "raw_repeat" in vector:
        return b"".join(text.encode() * times for text, times in vector["raw_repeat"])
    return str(vector["raw"]).encode()


def test_there_are_vectors_of_every_direction_and_both_kinds() -> None:
    found = {(p.values[0]["direction"], p.values[0]["valid"]) for p in vectors()}
    assert {d for d, valid in found if valid} == set(DECODERS)
    assert {d for d, valid in found if not valid} >= {"to_sidecar", "from_sidecar", "from_registry", "agent"}


@pytest.mark.parametrize("vector", list(vectors()))
def test_decoder_agrees(vector: dict[str, Any]) -> None:
    decode, data = DECODERS[vector["direction"]], raw(vector)
    if vector["valid"] or vector["error"] in KNOWN_TO_THE_REGISTRY_ALONE:
        decode(data)
        return
    with pytest.raises(InvalidLine) as refusal:
        decode(data)
    assert refusal.value.code == vector["error"]
    assert refusal.value.message, "a refusal names the fault"


@pytest.mark.parametrize("vector", [v for v in vectors() if v.values[0]["valid"]])
def test_what_was_decoded_is_written_back_and_means_the_same(vector: dict[str, Any]) -> None:
    """Nothing we know is lost on the way through our types: decoding what we wrote gives the same again."""
    direction = vector["direction"]
    decode, encode = DECODERS[direction], ENCODERS[direction]
    once = decode(raw(vector))
    again = decode(encode(once).encode())
    assert encode(again) == encode(once)


@pytest.mark.parametrize("vector", [v for v in vectors() if v.values[0]["direction"] == "from_sidecar"])
def test_fast_paths_agree_with_the_full_decoder(vector: dict[str, Any]) -> None:
    """A line that the short cut takes means the same to the decoder; a line it leaves is left to the decoder."""
    line = raw(vector)
    cut, number = ipc_fast.split_message(line), ipc_fast.ok_id(line)
    if not vector["valid"]:
        assert number is None
        return
    event = ipc.decode_event(line)
    if isinstance(event, ipc.Message) and line.startswith(b'{"type":"message","payload":{"from_peer":'):
        assert cut == (event.payload.from_peer.encode(), bytes(event.payload.message))
    else:
        assert cut is None or isinstance(event, ipc.Message)
    if number is not None:
        assert isinstance(event, ipc.Ok)
        assert event.id == number
