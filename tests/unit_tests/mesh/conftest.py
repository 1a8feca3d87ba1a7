"""Fixtures of the mesh tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from .members import Members


@pytest.fixture
async def members() -> AsyncIterator[Members]:
    """A hub with nobody on it yet."""
    async with AsyncExitStack() as stack:
        made = Members(stack)
        yield made
        await made.stop()
