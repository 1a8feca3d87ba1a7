"""Samples to tables: medians over the rounds, and ratios that are formed within a round."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

# metric, figure, heading, factor to the shown unit, digits
COLUMNS = [
    ("call", "p50_us", "tool call p50 µs", 1, 0),
    ("call", "p99_us", "p99 µs", 1, 0),
    ("turn", "p50_us", "turn p50 ms", 1e-3, 2),
    ("agent", "p50_us", "agent p50 ms", 1e-3, 2),
    ("paced", "first_us", "first token ms", 1e-3, 2),
    ("paced", "p50_us", "token late p50 µs", 1, 0),
    ("paced", "p99_us", "p99 µs", 1, 0),
    ("burst", "word_us", "burst µs/token", 1, 1),
]
CPU = [("call", 1e3), ("turn", 1e3), ("agent", 1e3), ("burst", 1e3)]  # to milliseconds for each go
BASELINE = "in-process"

Figures = dict[tuple[str, str], dict[int, float]]  # (system, column key) -> round -> value


def collect(samples: list[dict[str, Any]]) -> Figures:
    """Every figure by system, column and round."""
    figures: Figures = defaultdict(dict)
    for s in samples:
        if "error" in s:
            continue
        for metric, figure, heading, *_ in COLUMNS:
            if metric == s["metric"]:
                figures[s["system"], f"{metric} {heading}"][s["round"]] = s[figure]
        if s["metric"] in dict(CPU):
            figures[s["system"], f"cpu {s['metric']}"][s["round"]] = s["cpu_s"] / s["n"]
    return figures


def number(value: float | None, digits: int) -> str:
    """A number or a dash."""
    return "–" if value is None else f"{value:,.{digits}f}"


def median(values: dict[int, float], factor: float) -> float | None:
    """The median over the rounds in the shown unit."""
    return statistics.median(values.values()) * factor if values else None


def extra(figures: Figures, system: str, key: str) -> dict[int, float]:
    """What the system costs above the same graph in process, round by round."""
    mine, base = figures[system, key], figures[BASELINE, key]
    return {n: mine[n] - base[n] for n in mine.keys() & base.keys()}


def ratio(mine: dict[int, float], theirs: dict[int, float]) -> str:
    """Median and range of mine/theirs within each round. Where ours is lost in the noise there is none."""
    found = [mine[n] / theirs[n] for n in mine.keys() & theirs.keys() if theirs[n] > 0]
    if not found:
        return "–"
    return f"{statistics.median(found):.1f} [{min(found):.1f}–{max(found):.1f}]"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def tables(samples: list[dict[str, Any]], notes: dict[str, str], absent: list[str], ours: str) -> str:
    """The text of a report in Markdown."""
    figures = collect(samples)
    systems = [name for name in notes if any(name == system for system, _ in list(figures))]
    keys = [(f"{metric} {heading}", heading, factor, digits) for metric, _, heading, factor, digits in COLUMNS]
    lines = ["Medians over the rounds (this machine, shared; compare within the table):", ""]
    rows = [[s, *(number(median(figures[s, k], f), d) for k, _, f, d in keys)] for s in systems]
    lines += table(["system", *(heading for _, heading, *_ in keys)], rows)
    lines += ["", "CPU of both processes and their helpers, ms for each go (a stream has 200 tokens):", ""]
    rows = [[s, *(number(median(figures[s, f"cpu {m}"], f), 2) for m, f in CPU)] for s in systems]
    lines += table(["system", "tool call", "turn", "agent", "burst stream"], rows)
    lines += [
        "",
        f"Overhead above `{BASELINE}`, as a multiple of the overhead of `{ours}` in the same round "
        "(median [min–max]; above 1 = costs more than ours):",
        "",
    ]
    others = [s for s in systems if s not in (BASELINE, ours)]
    rows = [[s, *(ratio(extra(figures, s, k), extra(figures, ours, k)) for k, *_ in keys)] for s in others]
    lines += table(["system", *(heading for _, heading, *_ in keys)], rows)
    lines += ["", "Systems:", "", *(f"- `{s}`: {notes[s]}" for s in systems)]
    errors = sorted({f"{s['system']} {s['metric']}: {s['error']}" for s in samples if "error" in s})
    for title, entries in (("Left out", absent), ("Errors", errors)):
        if entries:
            lines += ["", f"{title}:", "", *(f"- {entry}" for entry in entries)]
    return "\n".join(lines)
