"""Check whether the file is Python at all; if it is not, the other reviewers raise."""

import ast


def run(input_dict):
    """Review the file with the given name in the namespace review:files."""
    try:
        ast.parse(data_store.use_namespace("review:files")[input_dict["name"]])
    except SyntaxError as error:
        return {"findings": [{"line": error.lineno or 1, "text": f"this is not Python: {error.msg}"}]}
    return {"findings": []}
