"""One question to many agents at once: take the answers that come in time, count them, and do not wait for the rest.

    python examples/vote.py

`ask_many` asks every agent whose card has the skill. With `quorum` it returns as soon as so many have answered, and the
others are told to stop: one that hangs costs nothing, one that fails is an error beside the answers.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from chatixia_langchain import Incoming, LocalMesh, Mesh, MeshAgent, Reply

SPAM = "Click here, you have won a gull!"
SKILL = {"name": "is_spam", "description": "says yes or no"}


async def by_words(message: Incoming) -> str:
    """A judge with a rule; a real one would ask its model, as in the other examples."""
    return "yes" if "won" in message.arguments["text"] else "no"


async def by_shouting(message: Incoming) -> str:
    """Another rule."""
    return "yes" if message.arguments["text"].endswith("!") else "no"


async def by_length(message: Incoming) -> str:
    """A third one, of another mind."""
    return "yes" if len(message.arguments["text"]) > 200 else "no"


async def never(message: Incoming) -> str:
    """A judge that hangs. `message.cancelled` is set, and this turn ended, once the quorum is there."""
    await asyncio.Event().wait()
    return ""


JUDGES = {"judge-1": by_words, "judge-2": by_shouting, "judge-3": by_length, "judge-4": never}


async def vote(mesh: Mesh, text: str) -> Counter[str]:
    """Ask all judges, at most 20 s; three answers are enough."""
    results = await mesh.ask_many("", skill="is_spam", arguments={"text": text}, quorum=3, timeout=20)
    for name, result in sorted(results.items()):
        print(f"{name}: {result.content if isinstance(result, Reply) else result.code}")
    return Counter(r.content for r in results.values() if isinstance(r, Reply))


async def main() -> None:
    """Four judges, one of whom never answers, and whoever asks them."""
    async with LocalMesh() as local:
        asker = await local.join("asker")
        members = [await local.join(name, skills=[SKILL]) for name in JUDGES]
        serving = [asyncio.create_task(MeshAgent(m, JUDGES[m.name]).serve()) for m in members]
        for name in JUDGES:
            await asker.wait_for_peer(name)

        (verdict, count), *_ = (await vote(asker, SPAM)).most_common()
        print(f"spam? {verdict}, by {count} votes")
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
