"""Find public functions and classes without a docstring."""

import ast

DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def run(input_dict):
    """Review the file with the given name in the namespace review:files."""
    tree = ast.parse(data_store.use_namespace("review:files")[input_dict["name"]])
    public = (part for part in ast.walk(tree) if isinstance(part, DEFINITIONS) and not part.name.startswith("_"))
    return {
        "findings": [
            {"line": part.lineno, "text": f"{part.name} has no docstring"}
            for part in public
            if ast.get_docstring(part) is None
        ]
    }
