"""`python -m chatixia_langchain.protocol.schemas [FOLDER]`: write the JSON Schemas of the wire types.

They are made from the msgspec types, which are the source; a test compares them with `protocol/schema/`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from . import envelope, ipc, signaling

SCHEMAS: dict[str, tuple[Any, str]] = {
    "ipc_command": (ipc.Command, "A line from an agent to its sidecar"),
    "ipc_event": (ipc.Event, "A line from a sidecar to its agent"),
    "signaling_to_registry": (signaling.ToRegistry, "A frame from a sidecar to the registry"),
    "signaling_from_registry": (signaling.FromRegistry, "A frame from the registry to a sidecar"),
    "envelope": (envelope.Frame, "A message between two agents"),
}


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) called `name`."""
    kind, title = SCHEMAS[name]
    (found,), definitions = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
    return head | found | {"$defs": dict(sorted(definitions.items()))}


def text(name: str) -> str:
    """The schema as its file holds it."""
    return json.dumps(schema(name), indent=1, ensure_ascii=False) + "\n"


def main(folder: str = "protocol/schema") -> None:
    """Write all schemas into `folder`."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in SCHEMAS:
        (Path(folder) / f"{name}.json").write_text(text(name), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:2])
