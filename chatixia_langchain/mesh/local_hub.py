"""The hub that all meshes of this process with `transport="memory"` meet in, unless they are given another."""

from ..transport.memory import MemoryHub

HUB = MemoryHub()
