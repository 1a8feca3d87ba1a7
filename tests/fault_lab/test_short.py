"""The seeded short form of the cells, on real namespaces, sidecars and a real registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..support import sidecar_binary
from . import cells
from .lab import Lab, why_not

MISSING = why_not()
pytestmark = [
    pytest.mark.sidecar,
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
]


async def test_f12_partition_the_mailbox_takes_over_and_gives_back(tmp_path: Path) -> None:
    async with Lab(tmp_path, seed=1, sidecar=sidecar_binary()) as lab:
        verdict = await cells.f12(lab, cells.Span(fault_s=14, before_s=1, after_s=3))
    print("F12", verdict.line())
    assert verdict.good, verdict.notes
    assert verdict.by_mailbox
    assert not verdict.undeliverable
