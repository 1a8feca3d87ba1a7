"""The hand-made helpers of the hot path write and read the same lines as the types."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatixia_langchain.errors import InvalidLine
from chatixia_langchain.protocol import ipc, ipc_fast, schemas
from chatixia_langchain.protocol.lines import depth_of

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
BODIES = st.dictionaries(
    TEXT, st.recursive(TEXT | st.integers() | st.none(), lambda v: st.lists(v) | st.dictionaries(TEXT, v))
)


@settings(max_examples=60, deadline=None)
@given(BODIES, st.integers(1, 10**12))
def test_a_send_line_made_by_hand_is_what_the_decoder_reads(body: dict[str, object], number: int) -> None:
    message = json.dumps(body, ensure_ascii=False).encode()
    line = ipc_fast.SEND_HEAD + b"%d" % number + ipc_fast.send_prefix("peer-1") + message + ipc_fast.SEND_TAIL
    command = ipc.decode_command(line[:-1])
    assert isinstance(command, ipc.Send)
    assert (command.id, command.payload.target_peer, bytes(command.payload.message)) == (number, "peer-1", message)


@settings(max_examples=60, deadline=None)
@given(BODIES)
def test_a_message_event_is_cut_without_opening_the_body(body: dict[str, object]) -> None:
    message = json.dumps(body, ensure_ascii=False).encode()
    line = b'{"type":"message","payload":{"from_peer":"a","message":' + message + b"}}"
    assert ipc_fast.split_message(line) == (b"a", message)
    event = ipc.decode_event(line)
    assert isinstance(event, ipc.Message)
    assert bytes(event.payload.message) == message


@settings(max_examples=60, deadline=None)
@given(st.binary() | st.text().map(str.encode))
def test_no_input_escapes_as_another_error(data: bytes) -> None:
    for decode in (ipc.decode_command, ipc.decode_event):
        with pytest.raises(InvalidLine):
            decode(data)
    ipc_fast.split_message(data)
    ipc_fast.ok_id(data)


@pytest.mark.parametrize(
    ("line", "number"),
    [
        (b'{"type":"ok","id":7,"payload":{}}', 7),
        (b'{"type":"ok","id":"7","payload":{}}', None),
        (b'{"type":"ok","id":-7,"payload":{}}', None),
        (b'{"type":"ok","id":7,"payload":{"sent":[]}}', None),
        (b'{"type":"ok","id":7,"x":{},"payload":{}}', None),
        (b'{"type":"error","id":7,"payload":{}}', None),
    ],
)
def test_only_a_plain_ok_takes_the_short_cut(line: bytes, number: int | None) -> None:
    assert ipc_fast.ok_id(line) == number


def test_depth_counts_nesting_and_not_brackets_in_text() -> None:
    assert depth_of(b'{"a":"' + b"[" * 500 + b'"}') == 1
    assert depth_of(b'{"a":"\\"' + b"[" * 500 + b'"}') == 1
    assert depth_of(b"[" * 70 + b"]" * 70) == 70
    assert depth_of(b"[]" * 70) == 1


def test_a_second_hello_field_may_be_absent_and_unknown_fields_are_ignored() -> None:
    line = b'{"type":"hello","x":1,"payload":{"protocol":1,"y":[2]}}'
    assert ipc.decode_command(line) == ipc.Hello(ipc.HelloRequest(1))


@pytest.mark.parametrize("name", list(schemas.SCHEMAS))
def test_schema_files_are_what_the_types_say(name: str) -> None:
    """Run `python -m chatixia_langchain.protocol.schemas` after a change of the types."""
    from pathlib import Path

    file = Path(__file__).parents[3] / f"protocol/schema/{name}.json"
    assert file.read_text(encoding="utf-8") == schemas.text(name)
