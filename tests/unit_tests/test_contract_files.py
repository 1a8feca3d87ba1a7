"""The numbers and codes of the code equal those of `protocol/`: two languages read the files, so neither may drift."""

from __future__ import annotations

import json
import re
from pathlib import Path

from chatixia_langchain import errors
from chatixia_langchain.protocol import limits

PROTOCOL = Path(__file__).parents[2] / "protocol"


def test_limits_equal_the_file() -> None:
    """Each key of limits.json is a constant of protocol/limits.py with the same value, and the other way round."""
    wanted = json.loads((PROTOCOL / "limits.json").read_text())
    ours = {k: v for k, v in vars(limits).items() if re.fullmatch(r"[A-Z][A-Z_]+", k)}
    assert {k.upper(): v for k, v in wanted.items()} == ours


def test_error_classes_agree_with_the_file() -> None:
    """Every class's code is in errors.json and says the same of retrying and execution."""
    table = json.loads((PROTOCOL / "errors.json").read_text())
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.MeshError)]
    assert len(classes) > 10
    for c in classes:
        assert c.code in table, f"{c.__name__}.code {c.code!r} is not in errors.json"
        assert (c.retryable, c.executed) == (table[c.code]["retryable"], table[c.code]["executed"]), c.__name__


def test_every_code_survives_the_wire() -> None:
    """`from_wire` keeps the code and what the other side said of it, known class or not."""
    for code in [*json.loads((PROTOCOL / "errors.json").read_text()), "a_code_of_the_future"]:
        error = errors.from_wire(code, "why", retryable=True, executed="yes")
        assert (error.code, error.retryable, error.executed, str(error)) == (code, True, "yes", f"[{code}] why")


def test_unknown_executed_word_becomes_unknown() -> None:
    assert errors.from_wire("busy", "x", executed="maybe").executed == "unknown"
