"""Store the files of a repository, each with a summary; skip unchanged files.

Files that the repository no longer contains are removed.

Input: {"repo": "name"} if the host provides the tools; else {"repo": "name", "files": {"path": "text"}}.
Tools, plain or async: list_files(repo) returns all paths; read_file(repo, path) returns a text, or None if it is not text.
Stores: files:<repo>, summary:<repo>, digest:<repo>, each with the paths as keys.
"""

import ast
import asyncio
import hashlib
import inspect
import warnings

BATCH = 100  # files that are read, compared and stored together: few round trips, little memory


async def run(input_dict: dict, tools: dict) -> dict:
    """Update the store from a repository, and count the changes."""
    repo, files = input_dict.get("repo"), input_dict.get("files")
    if not isinstance(repo, str) or not repo:
        return {"error": 'Say which repository: {"repo": "name"}.'}
    if files is None and not {"list_files", "read_file"} <= tools.keys():
        return {"error": 'Give the texts as {"files": {"path": "text"}}, or the tools list_files and read_file.'}
    if files is not None and not is_files(files):
        return {"error": 'The files must be texts with their paths: {"files": {"path": "text"}}.'}

    paths = list(files or await call(tools["list_files"], repo))
    if not paths:
        return {"error": f"The repository {repo!r} has no files; what is in the store stays."}
    found, stored = set(), 0
    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        texts = files or await read(tools["read_file"], repo, batch)
        texts = {path: texts[path] for path in batch if texts[path] is not None}
        found.update(texts)
        stored += store_changed(repo, texts)

    return {
        "repo": repo,
        "files": len(found),
        "stored": stored,
        "unchanged": len(found) - stored,
        "not_text": len(paths) - len(found),
        "removed": remove_others(repo, found),
    }


def is_files(files) -> bool:
    """Whether this is a dict of texts by path."""
    return isinstance(files, dict) and bool(files) and all(p and isinstance(t, str) for p, t in files.items())


async def call(tool, *args):
    """Call a tool, whether it is plain or async."""
    result = tool(*args)
    return await result if inspect.isawaitable(result) else result


async def read(read_file, repo: str, paths: list[str]) -> dict:
    """Read some files, concurrently if the tool is async."""
    texts = await asyncio.gather(*(call(read_file, repo, path) for path in paths))
    return dict(zip(paths, texts, strict=True))


def store_changed(repo: str, texts: dict[str, str]) -> int:
    """Store the files that have changed since the last run, and return their number."""
    digests = data_store.use_namespace(f"digest:{repo}")
    before = digests.get_many(texts)
    now = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in texts.items()}
    changed = [path for path in texts if now[path] != before.get(path)]
    if changed:
        data_store.use_namespace(f"files:{repo}").set_many({path: texts[path] for path in changed})
        summaries = {path: summarise(path, texts[path]) for path in changed}
        data_store.use_namespace(f"summary:{repo}").set_many(summaries)
        # The digests are stored last, so that a run that ends before this line repeats these files.
        digests.set_many({path: now[path] for path in changed})
    return len(changed)


def summarise(path: str, text: str) -> dict:
    """Describe a file: the first line of its docstring, its classes and its functions."""
    summary = {"about": first_line(text), "classes": [], "functions": [], "lines": text.count("\n")}
    if not path.endswith(".py"):
        return summary
    try:
        with warnings.catch_warnings(action="ignore"):
            module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return summary  # not Python of this version: summarised as plain text
    summary["about"] = first_line(ast.get_docstring(module) or "")
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            summary["classes"].append(node.name)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            summary["functions"].append(node.name)
    return summary


def first_line(text: str) -> str:
    """Return the first nonblank line, cut to a length that fits a list."""
    return text.strip().partition("\n")[0].strip()[:200]


def remove_others(repo: str, found: set[str]) -> int:
    """Remove the stored files that the repository no longer contains, and return their number."""
    files = data_store.use_namespace(f"files:{repo}")
    gone = [path for path in files.iter_keys() if path not in found]
    data_store.use_namespace(f"digest:{repo}").delete_many(gone)
    data_store.use_namespace(f"summary:{repo}").delete_many(gone)
    return files.delete_many(gone)
