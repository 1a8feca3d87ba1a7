"""What a mesh does with its registry beside the channels: the mailbox as second path."""

from __future__ import annotations

from ..config import MeshConfig
from .engine import Engine


class SecondPath:
    def __init__(self, config: MeshConfig, engine: Engine) -> None:
        self._config, self._engine = config, engine

    def start(self) -> None: ...

    async def aclose(self) -> None: ...
