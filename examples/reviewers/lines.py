"""Find long lines."""

MOST = 120


def run(input_dict):
    """Review the file with the given name in the namespace review:files."""
    lines = data_store.use_namespace("review:files")[input_dict["name"]].splitlines()
    return {
        "findings": [
            {"line": number, "text": f"{len(line)} characters in a line"}
            for number, line in enumerate(lines, 1)
            if len(line) > MOST
        ]
    }
