"""For tests, demos and notebooks that must run offline: a scripted model, an OpenAI-compatible server, a bad network.

- `ScriptedChat`: a chat model that follows a rule
- `OpenAIServer`: the same behind the real protocol, for the real clients
- `FakeMesh`: a mesh in this process whose wire loses, doubles and delays
- `chatixia_langchain.testing.plugin`: pytest fixtures of these, there by installing the package

Imported when first used: the server alone needs no LangChain.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .fake_mesh import FakeMesh as FakeMesh
    from .openai_server import OpenAIServer as OpenAIServer
    from .scripted import ScriptedChat as ScriptedChat
    from .scripted import ask_then_answer as ask_then_answer
    from .scripted import from_openai_rule as from_openai_rule

_WHERE = {
    "FakeMesh": ".fake_mesh",
    "OpenAIServer": ".openai_server",
    "ScriptedChat": ".scripted",
    "ask_then_answer": ".scripted",
    "from_openai_rule": ".scripted",
}
__all__ = ["FakeMesh", "OpenAIServer", "ScriptedChat", "ask_then_answer", "from_openai_rule"]


def __getattr__(name: str) -> object:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
