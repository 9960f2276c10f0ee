"""Put the files of a repository into the store, each with a summary; what has not changed since is skipped.

What the repository no longer has is removed.

Input: {"repo": "name"}, where the host gives the tools; else {"repo": "name", "files": {"path": "text"}}.
Tools, plain or async: list_files(repo) gives all paths, read_file(repo, path) a text, or None for what is not text.
Stores: files:<repo>, summary:<repo>, digest:<repo>, each with the paths as keys.
"""

import ast
import asyncio
import hashlib
import inspect
import warnings

BATCH = 100  # files that are read, compared and stored together: few round trips, little memory


async def run(input_dict: dict, tools: dict) -> dict:
    """Bring the store up to date with a repository, and count what there was to do."""
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
    """Call a tool, be it plain or async."""
    result = tool(*args)
    return await result if inspect.isawaitable(result) else result


async def read(read_file, repo: str, paths: list[str]) -> dict:
    """Read some files, all at the same time if the tool is async."""
    texts = await asyncio.gather(*(call(read_file, repo, path) for path in paths))
    return dict(zip(paths, texts, strict=True))


def store_changed(repo: str, texts: dict[str, str]) -> int:
    """Store those files that are not what they were at the last time, and say how many."""
    digests = data_store.use_namespace(f"digest:{repo}")
    before = digests.get_many(texts)
    now = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in texts.items()}
    changed = [path for path in texts if now[path] != before.get(path)]
    if changed:
        data_store.use_namespace(f"files:{repo}").set_many({path: texts[path] for path in changed})
        summaries = {path: summarise(path, texts[path]) for path in changed}
        data_store.use_namespace(f"summary:{repo}").set_many(summaries)
        # The digests come last: a run that ends before this line does these files again.
        digests.set_many({path: now[path] for path in changed})
    return len(changed)


def summarise(path: str, text: str) -> dict:
    """Say what a file is about: its first docstring line, its classes and its functions."""
    summary = {"about": first_line(text), "classes": [], "functions": [], "lines": text.count("\n")}
    if not path.endswith(".py"):
        return summary
    try:
        with warnings.catch_warnings(action="ignore"):
            module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return summary  # no Python of this version, then: a text like others
    summary["about"] = first_line(ast.get_docstring(module) or "")
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            summary["classes"].append(node.name)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            summary["functions"].append(node.name)
    return summary


def first_line(text: str) -> str:
    """Return the first line with something on it, cut to what a list can show."""
    return text.strip().partition("\n")[0].strip()[:200]


def remove_others(repo: str, found: set[str]) -> int:
    """Remove what the store has of files that the repository no longer has, and say how many they were."""
    files = data_store.use_namespace(f"files:{repo}")
    gone = [path for path in files.iter_keys() if path not in found]
    data_store.use_namespace(f"digest:{repo}").delete_many(gone)
    data_store.use_namespace(f"summary:{repo}").delete_many(gone)
    return files.delete_many(gone)
