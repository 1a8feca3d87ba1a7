"""Which meshes a `MeshAgent` serves now: their mail is its own, and nobody else takes it out of the inbox."""

from __future__ import annotations

from weakref import WeakSet

from ..mesh.mesh import Mesh

served: WeakSet[Mesh] = WeakSet()
