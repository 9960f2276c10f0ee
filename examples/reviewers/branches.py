"""Find functions with many branches."""

import ast

MOST = 10


def run(input_dict):
    """Review the file with the given name in the namespace review:files."""
    tree = ast.parse(data_store.use_namespace("review:files")[input_dict["name"]])
    found = []
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            branches = sum(isinstance(part, ast.If | ast.For | ast.While | ast.Try) for part in ast.walk(function))
            if branches > MOST:
                found.append({"line": function.lineno, "text": f"{function.name} has {branches} branches"})
    return {"findings": found}
