"""Who did what, a line for each: for the log, and for a file of JSON lines when one is wanted.

Names, ids, codes and counts only: never a body, a key or a token. What callers wrote themselves is quoted.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import TextIO

logger = logging.getLogger(__name__)

Field = str | int | float | bool


class AuditError(Exception):
    """The file cannot be opened; the text names it and the fault."""


class Audit:
    """Where the registry notes what happened. `path` None: in the log alone."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._file: TextIO | None = None
        if path is not None:
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            except OSError as exc:
                raise AuditError(f"audit log {path} cannot be opened: {exc.strerror}") from exc
            self._file = os.fdopen(handle, "a", buffering=1)  # by lines: a crash loses none that was noted

    def note(self, event: str, **fields: Field) -> None:
        """Note an event, like `task_claimed` with `task=` and `peer=`."""
        logger.info("%s %s", event, " ".join(f"{name}={_plain(value)}" for name, value in fields.items()))
        if self._file is None:
            return
        try:
            self._file.write(json.dumps({"time": round(time.time(), 3), "event": event, **fields}) + "\n")
        except (OSError, ValueError) as exc:  # a full disk must not stop the mesh; the log has the line
            logger.error("the audit log %s cannot be written: %s", self._path, exc)

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _plain(value: Field) -> str:
    """The value in a log line: quoted where it could be taken for something else."""
    text = str(value)
    return text if text and all(c.isalnum() or c in "._:-/" for c in text) else json.dumps(text)
