"""What every line and frame must be before its fields are looked at: length, depth, UTF-8, one JSON object."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from ..errors import InvalidLine
from .limits import MAX_JSON_DEPTH

MAX_SAFE_INTEGER: Final = 2**53 - 1
"""Whole numbers beyond it do not survive every JSON reader."""

_STRUCTURE: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?|[{}\[\]]', re.DOTALL)
_TYPE: Final = re.compile(r"Invalid value '(.*)' - at `\$\.type`")


def depth_of(data: bytes) -> int:
    """How deep arrays and objects nest in `data`, strings left out. Works on text that is no JSON, too."""
    if data.count(b"{") + data.count(b"[") <= MAX_JSON_DEPTH:
        return 0  # cannot be over the limit: the usual case, at the price of two counts
    depth = deepest = 0
    for match in _STRUCTURE.finditer(data):
        token = match[0]
        if token in (b"{", b"["):
            depth += 1
            deepest = max(deepest, depth)
        elif token in (b"}", b"]"):
            depth -= 1
    return deepest


def check_line(data: bytes, decoder: msgspec.json.Decoder[Any], limit: int) -> Any:
    """Decode `data`, at most `limit` bytes.

    Raises InvalidLine: code `line_too_long`, `unknown_type` or `invalid_line`, the text names the fault and its field.
    """
    if len(data) > limit:
        raise InvalidLine(f"a line of {len(data)} bytes is over the limit of {limit}", code="line_too_long")
    if depth_of(data) > MAX_JSON_DEPTH:
        raise InvalidLine(f"nested deeper than {MAX_JSON_DEPTH}")
    if b"\r" in data or b"\n" in data:
        raise InvalidLine("a raw line end inside the line")
    try:
        data.decode("utf-8")
        return decoder.decode(data)
    except UnicodeDecodeError as exc:
        raise InvalidLine(f"not UTF-8: {exc}") from exc
    except msgspec.MsgspecError as exc:
        unknown = _TYPE.search(str(exc))
        if unknown:
            raise InvalidLine(f"unknown type {unknown[1][:80]!r}", code="unknown_type") from exc
        raise InvalidLine(str(exc)) from exc
    except RecursionError as exc:
        raise InvalidLine("nested too deep") from exc
