"""The threat model names tests that exist, and speaks of every threat once."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/threat-model.md").read_text()
ROWS = re.findall(r"^\| (\d+) \|(.*)\|$", PAGE, re.MULTILINE)


def test_every_threat_has_a_row() -> None:
    assert sorted(int(number) for number, _ in ROWS) == list(range(1, 32))


def test_the_tests_it_names_exist() -> None:
    defined = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        defined |= set(re.findall(r"def (test_\w+)", file.read_text()))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 30
    assert named <= defined, named - defined


def test_the_files_it_names_exist() -> None:
    assert [f for f in re.findall(r"`((?:tests|sidecar-rs)/[\w./-]+)`", PAGE) if not (ROOT / f).exists()] == []


def test_a_row_without_a_test_says_why() -> None:
    for number, row in ROWS:
        *_, test, left = row.split("|")
        assert test.strip() or left.strip() or "there is no" in row, f"threat {number} claims without a test"
