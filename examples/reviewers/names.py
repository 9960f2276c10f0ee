"""Find parameters with names of one letter."""

import ast

USUAL = {"_", "i", "n", "x", "y"}


def run(input_dict):
    """Review the file with the given name in the namespace review:files."""
    tree = ast.parse(data_store.use_namespace("review:files")[input_dict["name"]])
    arguments = (part for part in ast.walk(tree) if isinstance(part, ast.arg))
    return {
        "findings": [
            {"line": part.lineno, "text": f"the parameter {part.arg} says little"}
            for part in arguments
            if len(part.arg) == 1 and part.arg not in USUAL
        ]
    }
