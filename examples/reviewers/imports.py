"""Find unused imports."""

import ast


def run(input_dict):
    """Review the file with the given name in the namespace review:files."""
    tree = ast.parse(data_store.use_namespace("review:files")[input_dict["name"]])
    used = {part.id for part in ast.walk(tree) if isinstance(part, ast.Name)}
    found = []
    for part in ast.walk(tree):
        if isinstance(part, ast.Import | ast.ImportFrom):
            names = (alias.asname or alias.name.partition(".")[0] for alias in part.names)
            found += [{"line": part.lineno, "text": f"{name} is not used"} for name in names if name not in used]
    return {"findings": found}
