"""Ask three tools at once, and store their answers as one card; a second run answers from the store.

Input: {"module": "json"}; "refresh": true asks the tools again.
Tools: describe(module), list_names(module), count_lines(module), plain or async, as in tools/library.py.
"""

import asyncio
import inspect

TOOLS = ("describe", "list_names", "count_lines")


async def run(input_dict: dict, tools: dict) -> dict:
    """Return what the tools know about a module, and which of them failed."""
    module = input_dict.get("module")
    if not isinstance(module, str) or not module:
        return {"error": 'Say which module: {"module": "json"}.'}

    cards = data_store.use_namespace("cache:modules")
    if not input_dict.get("refresh") and (card := cards.get(module)) is not None:
        return {**card, "source": "cache"}
    missing = [name for name in TOOLS if name not in tools]
    if missing:
        return {"error": f"The host provides no tool {missing[0]!r}: see tools/library.py."}

    # All three run at the same time; if one fails, only its own answer is missing.
    answers = await asyncio.gather(*(call(tools[name], module) for name in TOOLS), return_exceptions=True)
    known = dict(zip(TOOLS, answers, strict=True))
    card = {
        "module": module,
        "about": answer(known["describe"]),
        "names": answer(known["list_names"]),
        "lines": answer(known["count_lines"]),
        "failed": {name: str(found) for name, found in known.items() if isinstance(found, Exception)},
    }
    if not card["failed"]:
        cards.set(module, card)
    return {**card, "source": "tools"}


async def call(tool, *args):
    """Call a tool, whether async or plain; a plain one runs in a thread, so that the others need not wait for it."""
    if inspect.iscoroutinefunction(tool):
        return await tool(*args)
    return await asyncio.to_thread(tool, *args)


def answer(found):
    """Return an answer, or None for an exception."""
    return None if isinstance(found, Exception) else found
