"""Second of a pipeline: keep a summary of each file in `pipeline:summaries`. It does not know which agent stores the files.

Runs on changes of the namespace `pipeline:files`.
"""

import ast
import warnings


async def run(input_dict: dict, tools: dict) -> dict:
    """Summarise the files that were written; delete the summaries of files that were deleted."""
    summaries = data_store.use_namespace("pipeline:summaries")
    for change in input_dict["changes"]:
        if change["op"] == "set":
            summaries.set(change["key"], summarise(change["value"]))
        elif change["key"] is not None:
            summaries.delete(change["key"])
        else:  # a clear, or a reset: the existing keys follow it
            summaries.clear()
    return {"changes": len(input_dict["changes"])}


def summarise(text: str) -> dict:
    """Describe a file: the first line of its docstring, and the names that it defines."""
    try:
        with warnings.catch_warnings(action="ignore"):
            module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {"about": text.strip().partition("\n")[0][:200], "names": []}  # not Python of this version
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    about = (ast.get_docstring(module) or "").partition("\n")[0]
    return {"about": about[:200], "names": [node.name for node in module.body if isinstance(node, kinds)]}
