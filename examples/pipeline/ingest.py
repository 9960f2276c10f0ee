"""First of a pipeline: put changed texts into `pipeline:files`. Who wants to react to them watches that namespace.

Runs on changes of the namespace `pipeline:inbox`, where somebody puts the text of a file under its path, or deletes it.
"""


async def run(input_dict: dict, tools: dict) -> dict:
    """Store what is new in the inbox, if it is not what is stored already."""
    files = data_store.use_namespace("pipeline:files")
    stored = removed = 0
    for change in input_dict["changes"]:
        path, text = change["key"], change["value"]
        if change["op"] == "set":
            if files.get(path) != text:
                files.set(path, text)
                stored += 1
        elif path is not None:
            removed += files.delete(path)
    return {"stored": stored, "removed": removed}
