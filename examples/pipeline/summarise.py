"""Second of a pipeline: keep a summary of each file in `pipeline:summaries`. It knows nothing of who puts the files there.

Runs on changes of the namespace `pipeline:files`.
"""

import ast
import warnings


async def run(input_dict: dict, tools: dict) -> dict:
    """Summarise the files that were written; forget those that are gone."""
    summaries = data_store.use_namespace("pipeline:summaries")
    for change in input_dict["changes"]:
        if change["op"] == "set":
            summaries.set(change["key"], summarise(change["value"]))
        elif change["key"] is not None:
            summaries.delete(change["key"])
        else:  # clear, or a reset: what is there comes after it
            summaries.clear()
    return {"changes": len(input_dict["changes"])}


def summarise(text: str) -> dict:
    """Say what a file is about: its first docstring line, and what it defines."""
    try:
        with warnings.catch_warnings(action="ignore"):
            module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {"about": text.strip().partition("\n")[0][:200], "names": []}  # no Python of this version
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    about = (ast.get_docstring(module) or "").partition("\n")[0]
    return {"about": about[:200], "names": [node.name for node in module.body if isinstance(node, kinds)]}
