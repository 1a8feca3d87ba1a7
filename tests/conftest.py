"""Shared by all tests: what a skip means under `./dev test --strict`."""

from __future__ import annotations

import os
import re
import signal
import threading

import pytest

# Skips that hide a part of the product. A missing browser hides none; it is a second client of the same wire.
HIDES_A_PART = re.compile(
    r"sidecar|cargo|aiortc|registry|socat|netcat|hadolint|check-jsonschema|could not import|no module|\b(go|node)\b",
    re.IGNORECASE,
)
hidden: list[str] = []

# A shell that starts a job in the background lets it ignore Ctrl-C, and so would every program that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note the skips that strict mode does not accept. An expected failure is no skip."""
    if report.skipped and not hasattr(report, "wasxfail") and "browser" not in report.keywords:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if "sidecar" in report.keywords or HIDES_A_PART.search(reason):
            hidden.append(f"{report.nodeid}: {reason}")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A whole module may be skipped while it is collected."""
    if report.skipped and isinstance(report.longrepr, tuple) and HIDES_A_PART.search(report.longrepr[2]):
        hidden.append(f"{report.nodeid}: {report.longrepr[2]}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Under strict mode a hidden part fails the run."""
    if os.environ.get("CHATIXIA_STRICT") and hidden and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was hidden."""
    if os.environ.get("CHATIXIA_STRICT") and hidden:
        terminalreporter.section("skips that --strict counts as failures", red=True)
        for line in hidden:
            terminalreporter.line(line)
