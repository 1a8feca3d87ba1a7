"""A turn's LangSmith run under the run of the agent that asked, where the policy trusts that agent's word.

Only the `langsmith-trace` value is read, never baggage: a peer may place our run in a trace, but not name projects,
addresses or metadata, and it cannot switch tracing on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..mesh.trace import LANGSMITH
from ..mesh.types import Incoming

MAX_CHARS = 8192  # about a hundred runs deep
_RUN = r"\d{8}T\d{12}Z[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_DOTTED_ORDER = re.compile(rf"{_RUN}(\.{_RUN})*")


def caller_run(message: Incoming) -> str:
    """The run that a message says it was sent from, "" for none or one that is malformed."""
    said = message.meta.get(LANGSMITH)
    good = isinstance(said, str) and len(said) <= MAX_CHARS and _DOTTED_ORDER.fullmatch(said)
    return str(said) if good else ""


@contextmanager
def under_caller(message: Incoming, *, trust: bool) -> Iterator[None]:
    """Make runs inside children of the caller's run; does nothing unless `trust`, and while LangSmith is off here."""
    parent = caller_run(message) if trust else ""
    if not parent:
        yield
        return
    from langsmith import utils  # costs 0.1 s: only for whoever traces
    from langsmith.run_helpers import get_tracing_context, tracing_context
    from langsmith.run_trees import RunTree

    if not utils.tracing_is_enabled():
        yield
        return
    here = get_tracing_context()
    kept = {k: here.get(k) for k in ("project_name", "tags", "metadata", "enabled", "client", "replicas")}
    # Runs below go to the client and the project of their parent, so it must be made with ours.
    ours = {k: kept[k] for k in ("client", "project_name") if kept[k] is not None}
    with tracing_context(**kept, parent=RunTree.from_headers({"langsmith-trace": parent}, **ours)):
        yield
