"""First of a pipeline: store changed texts in `pipeline:files`, where any agent can watch for them.

Runs on changes of the namespace `pipeline:inbox`. A file's text is set there under its path, or deleted.
"""


async def run(input_dict: dict, tools: dict) -> dict:
    """Store each text from the inbox that differs from the stored one."""
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
