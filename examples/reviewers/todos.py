"""Find comments marked TODO, FIXME or XXX."""

import re

MARK = re.compile(r"#.*\b(TODO|FIXME|XXX)\b:?\s*(.*)")


def run(input_dict):
    """Review the file with the given name in the namespace review:files."""
    lines = data_store.use_namespace("review:files")[input_dict["name"]].splitlines()
    marked = ((number, MARK.search(line)) for number, line in enumerate(lines, 1))
    return {"findings": [{"line": number, "text": f"put off: {mark[2] or mark[1]}"} for number, mark in marked if mark]}
