"""What tests of several folders need: the sidecar under test, and patience."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def sidecar_binary() -> str:
    """The sidecar under test, or a skip that says what is missing."""
    named = os.environ.get("SIDECAR_BINARY")
    built = (ROOT / "sidecar-rs/target" / profile / "chatixia-sidecar" for profile in ("release", "debug"))
    found = named or next((str(b) for b in built if b.is_file()), None) or shutil.which("chatixia-sidecar")
    if not found:
        pytest.skip("no sidecar binary: run `cargo build --release` in sidecar-rs")
    return found


async def until(what: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Wait until `what()` is true. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not what():
            await asyncio.sleep(0.02)
