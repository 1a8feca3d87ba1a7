"""A guarantee that is switched off makes the oracle fail, over the same faults that it survives when it is on."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from ..support import sidecar_binary
from .lab import Lab, why_not
from .oracle import Verdict

MISSING = why_not()
pytestmark = [
    pytest.mark.sidecar,
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
]


async def _late_acknowledgements_and_a_killed_sidecar(folder: Path, broken: str) -> Verdict:
    async with Lab(folder, sidecar=sidecar_binary()) as lab:
        a, _ = await lab.pair(broken=broken)
        lab.wire.cut("b", "a", one_way=True)
        await a.do("burst", to="b", count=10)
        await asyncio.sleep(2.5)
        lab.wire.cut("a", "b")
        await a.do("burst", to="b", count=10)
        os.kill(await a.do("sidecar"), signal.SIGKILL)
        lab.wire.heal("a", "b")
        return await lab.verdict(quiet_s=30)


@pytest.mark.parametrize(("broken", "wrong"), [("", ""), ("duplicates", "doubled"), ("resend", "lost")])
async def test_the_oracle_sees_the_missing_guard(tmp_path: Path, broken: str, wrong: str) -> None:
    verdict = await _late_acknowledgements_and_a_killed_sidecar(tmp_path, broken)
    print(broken or "all on", verdict.line())
    assert verdict.good is not bool(wrong), verdict.notes
    assert not wrong or getattr(verdict, wrong) > 0
