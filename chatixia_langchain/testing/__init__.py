"""For tests, demos and notebooks that must run offline: a scripted chat model and a local OpenAI-compatible server."""

from .openai_server import OpenAIServer
from .scripted import ScriptedChat, ask_then_answer

__all__ = ["OpenAIServer", "ScriptedChat", "ask_then_answer"]
