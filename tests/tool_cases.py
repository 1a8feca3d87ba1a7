"""Every tool of the mesh with arguments it takes: one table for the standard suites over memory and over sidecars."""

from __future__ import annotations

from typing import Any

from langchain_core.tools import BaseTool

from chatixia_langchain import Mesh, MeshTool, MeshToolkit

ASK = {"peer": "b", "message": "hello"}
TASK = "the task"  # stands for the id of a task that was started
SKILLS: list[dict[str, Any]] = [  # of peer `b`
    {
        "name": "search",
        "input_schema": {
            "properties": {"query": {"type": "string"}, "limit": {"type": "integer", "minimum": 1}},
            "required": ["query"],
        },
    }
]
ARGUMENTS: dict[str, dict[str, Any]] = {
    "ask_b": {"message": "hello"},
    "b_search": {"query": "hello", "limit": 2},
    "mesh_list_peers": {},
    "mesh_ask": ASK,
    "mesh_send": ASK,
    "mesh_broadcast": {"message": "hello"},
    "mesh_ask_many": {"message": "hello", "peers": ["b"]},
    "mesh_start_task": {"peer": "b", "description": "hello"},
    "mesh_check_task": {"task_id": TASK},
    "mesh_update_task": {"task_id": TASK, "instructions": "hello again"},
    "mesh_cancel_task": {"task_id": TASK},
    "mesh_list_tasks": {},
}


def tool_case(mesh: Mesh, name: str) -> tuple[BaseTool, dict[str, Any]]:
    """One tool, of a fresh toolkit or of its own, and what to give it; peer `b` must be there, with `SKILLS`."""
    own = [MeshTool(mesh, peer="b"), MeshTool(mesh, peer="b", skill="search")]
    made = {t.name: t for t in [*own, *MeshToolkit(mesh).get_tools()]}
    arguments = ARGUMENTS[name]
    if arguments.get("task_id") == TASK:
        start = made["mesh_start_task"]
        call = {"type": "tool_call", "name": start.name, "args": ARGUMENTS[start.name], "id": "start"}
        (task_id,) = start.invoke(call).artifact
        arguments = {**arguments, "task_id": task_id}
    return made[name], arguments
