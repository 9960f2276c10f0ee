"""The demo of `make demo`: the agents of this folder process the sources of Python's standard library.

They run in the sandbox, as the user "demo", on an embedded server that keeps its data in a folder: a second demo finds the
data of the first. `--files` limits the number of files, `--data-dir` chooses another folder.
"""

from __future__ import annotations

import argparse
import os
import platform
import pydoc
import shlex
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

if sys.version_info < (3, 11):  # noqa: UP036  # run by hand, this file may meet an older Python
    sys.exit(f"The demo needs Python 3.11 or later, and this is {platform.python_version()}: run `make demo`.")

try:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table

    import sandbox
    from redis_store import DataStore, DataStoreError, connect
    from redis_store.server import join, status
    from sandbox.isolation import ENVIRONMENT, UNSAFE, available
except ImportError as error:
    sys.exit(f"The demo failed: {error}. Run it with `make demo`, which installs what it needs into .venv first.")

EXAMPLES = Path(__file__).resolve().parent
USER = "demo"
REPO = "stdlib"
QUERIES = ("json decoder", "http server", "temporary file", "priority queue")
PAGE = "pydoc:asyncio"
PIPELINE = {"ingest": "pipeline:inbox", "summarise": "pipeline:files", "index": "pipeline:summaries"}
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


class DemoFailed(Exception):
    """The demo cannot continue; the message is a sentence for its user."""


@dataclass(frozen=True)
class Step:
    """One run of an agent, as shown in the report."""

    agent: str
    outcome: str
    result: sandbox.RunResult


class Host:
    """The agents' host: runs them, gives them tools, and keeps their results."""

    def __init__(self, url: str, isolation: str) -> None:
        self.url = url
        self.isolation = isolation
        self.steps: list[Step] = []

    def run(
        self,
        agent: str,
        input_dict: dict[str, Any],
        describe: Callable[[dict[str, Any]], str],
        **tools: Callable[..., Any],
    ) -> dict[str, Any]:
        """Run one of the examples and return its output; `describe` summarises the output for the report."""
        path = EXAMPLES / f"{agent}.py"
        result = sandbox.run(path, input_dict, user=USER, tools=tools, url=self.url, isolation=self.isolation)
        output = result.check()
        if "error" in output:
            raise DemoFailed(f"{agent} says: {output['error']}")
        self.steps.append(Step(agent, describe(output), result))
        return output


def standard_library() -> Iterator[tuple[str, str]]:
    """Yield path and text of each source file of the running Python's standard library that is UTF-8."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if LEFT_OUT.isdisjoint(name.parts):
            try:
                yield name.as_posix(), path.read_bytes().decode()
            except (UnicodeDecodeError, OSError):
                continue


def choose_isolation(console: Console) -> str:
    """Return the best isolation tier of this system; if there is none, the demo runs its own agents without isolation."""
    try:
        return available()
    except sandbox.IsolationUnavailable:
        console.print(
            "This system cannot isolate agents (see `sandbox doctor`). The demo runs only its own agents, so it continues"
            f" without isolation: isolation={UNSAFE!r}.\n",
            soft_wrap=True,
            markup=False,
        )
        return UNSAFE


def ingest(host: Host, sources: dict[str, str], console: Console) -> None:
    """Run the ingesting agent, with a progress bar that advances as the agent reads the files."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not is_screen(console)) as progress:
        bar = progress.add_task("Ingesting the standard library", total=len(sources))

        def list_files(repo: str) -> list[str]:
            return list(sources)

        async def read_file(repo: str, path: str) -> str:
            progress.advance(bar)
            return sources[path]

        host.run("ingest_repository", {"repo": REPO}, describe_ingestion, list_files=list_files, read_file=read_file)


def is_screen(console: Console) -> bool:
    """Whether the output goes to a terminal, and not to a file or a build log."""
    return sys.stdout.isatty() and console.is_interactive


def fetch(url: str) -> str:
    """Fetch a page, as a host's tool would from the network; here it is pydoc's text about a module."""
    return pydoc.render_doc(url.removeprefix("pydoc:"), renderer=pydoc.plaintext)


def lines_of_packages(sources: dict[str, str]) -> dict[str, int]:
    """Count the lines of each package, and of each module outside a package."""
    lines: Counter[str] = Counter()
    for path, text in sources.items():
        lines[path.partition("/")[0].removesuffix(".py")] += text.count("\n")
    return dict(lines)


def run_agents(host: Host, sources: dict[str, str], console: Console) -> None:
    """Run each of the examples, after those that it depends on."""
    ingest(host, sources, console)
    for query in QUERIES:
        host.run("search", {"query": query, "limit": 3}, describe_search)
    for _ in range(2):
        host.run("cached_fetch", {"url": PAGE}, describe_fetch, fetch=fetch)
    stored = "{status} {key!r} in namespace {namespace!r}".format_map
    host.run("producer", {"data": lines_of_packages(sources)}, stored)
    host.run("consumer", {}, "from {written_by}: {report}".format_map)
    host.run("quick_start", {"name": "demo"}, "{greeting} Visits: {visits}".format_map)


def describe_ingestion(output: dict[str, Any]) -> str:
    """Describe how many files were stored, unchanged and removed."""
    files, stored, unchanged = output["files"], output["stored"], output["unchanged"]
    removed = f", {output['removed']} removed" if output["removed"] else ""
    if not stored:
        return f"{files} files, all unchanged since the last run{removed}"
    if not unchanged:
        return f"{files} files, all stored with their summaries{removed}"
    return f"{files} files: {stored} stored, {unchanged} unchanged since the last run{removed}"


def describe_search(output: dict[str, Any]) -> str:
    """Describe how many files a search found, and which is the best."""
    if not output["found"]:
        return f"{output['query']!r}: nothing found"
    best = output["results"][0]
    return f"{output['query']!r}: {output['found']} found, {best['file']} first: {best['summary']['about']}"


def describe_fetch(output: dict[str, Any]) -> str:
    """Describe the source of a fetched page."""
    return f"{output['url']}, {len(output['answer']):,} characters, source: {output['source']}"


def show_pipeline(host: Host, console: Console) -> None:
    """Let three agents wait for changes, edit a file on disk, and time its way into the summary and the index."""
    console.print("Live: ingest, summarise and index wait for changes; none of them calls another.")
    with tempfile.TemporaryDirectory(prefix="demo-") as folder, ExitStack() as stack:
        path = Path(folder) / "greeting.py"
        store = stack.enter_context(connect(host.url, user=USER))
        for name in (*PIPELINE.values(), "pipeline:index", "pipeline:words"):
            store.use_namespace(name).clear()
        for agent, namespace in PIPELINE.items():
            options = {"user": USER, "namespace": namespace, "url": host.url, "isolation": host.isolation}
            agent_file = EXAMPLES / "pipeline" / f"{agent}.py"
            stack.enter_context(sandbox.on_change(agent_file, concurrency=1, first_wait=0.1, **options))
        for text in ('"""Say hello."""\ndef hello(): ...\n', '"""Say goodbye, politely."""\ndef goodbye(): ...\n'):
            path.write_text(text, encoding="utf-8")
            follow(store, path, console)
    console.print()


def follow(store: DataStore, path: Path, console: Console) -> None:
    """Store the file as it is on disk now, and wait until its summary and the index are updated."""
    text = path.read_text(encoding="utf-8")
    word = text.split("def ")[1].partition("(")[0]
    start = time.perf_counter()
    store.use_namespace("pipeline:inbox").set(path.name, text)
    times = {}
    for what, namespace, key, follows in (
        ("stored", "pipeline:files", path.name, lambda value: value == text),
        ("summarised", "pipeline:summaries", path.name, lambda value: value["names"] == [word]),
        ("indexed", "pipeline:index", word, lambda paths: path.name in paths),
    ):
        store.use_namespace(namespace).wait_until(key, follows, timeout=20)
        times[what] = time.perf_counter() - start
    shown = ", ".join(f"{what} after {seconds:.2f} s" for what, seconds in times.items())
    about = store.use_namespace("pipeline:summaries")[path.name]["about"]
    console.print(f"  {path.name} edited on disk: {shown}: {about!r}", highlight=False, markup=False, soft_wrap=True)


def report(host: Host, sources: dict[str, str], seconds: float, console: Console) -> None:
    """Show the results, and how long they took."""
    table = Table(box=None, pad_edge=False, expand=False)
    table.add_column("Agent", no_wrap=True)
    table.add_column("Result", ratio=1)
    table.add_column("Operations", justify="right")
    table.add_column("Time", justify="right", no_wrap=True)
    for step in host.steps:
        operations = len(step.result.operations)
        table.add_row(step.agent, escape(step.outcome), f"{operations:,}", f"{step.result.duration:.2f} s")
    console.print(table)

    operations = [operation for step in host.steps for operation in step.result.operations]
    fetches = [step.outcome for step in host.steps if step.agent == "cached_fetch"]
    hits = sum(outcome.endswith("source: cache") for outcome in fetches)
    console.print(
        f"\n{len(sources):,} files of {total_size(len(text.encode()) for text in sources.values())};"
        f" {len(operations):,} operations on the store moved {total_size(one.bytes for one in operations)};"
        f" cache hits: {hits} of {len(fetches)} fetches; {seconds:.1f} s in all.\n",
        highlight=False,
    )


def total_size(sizes: Iterable[int]) -> str:
    """Add up sizes in bytes, and format the sum."""
    size = sum(sizes)
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def show_commands(data_dir: Path, isolation: str, file: str, console: Console) -> None:
    """Show commands that read the agents' data; each line can be pasted unchanged, and changes nothing for later ones."""
    folder, programs = shlex.quote(str(data_dir)), Path(sys.executable).parent
    redis_store, run_in_sandbox = (shlex.quote(str(programs / name)) for name in ("redis-store", "sandbox"))
    of_demo = f"--data-dir {folder} --user {USER}"
    search = shlex.quote(str(EXAMPLES / "search.py"))
    socket = shlex.quote(str(status(data_dir).socket_path))
    setting = f"REDIS_STORE_DATA_DIR={folder} "
    if os.environ.get("REDIS_URL"):
        setting = f"REDIS_URL= {setting}"
    if isolation == UNSAFE:
        setting += f"{ENVIRONMENT}={UNSAFE} "
    parts = {
        "Look at the demo's data, which `make clean` removes; the server starts again for each command:": [
            f"{redis_store} namespaces {of_demo}",
            f"{redis_store} get {of_demo} --namespace summary:{REPO} {shlex.quote(file)}",
            f"{redis_store} info {of_demo} --namespace shared latest-analysis",
            f'{setting}{run_in_sandbox} run {search} --user {USER} --input \'{{"query": "regular expression"}}\'',
        ],
        "Or keep it running, and use any client:": [
            f"{redis_store} server start --data-dir {folder}",
            f"redis-cli -s {socket} HLEN user:{USER}:ns:files:{REPO}",
            f"{redis_store} server stop --data-dir {folder}",
        ],
    }
    for title, lines in parts.items():
        console.print(title)
        for line in lines:
            console.out("   ", line, highlight=False)


def at_least_one(text: str) -> int:
    """Parse a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def main() -> int:
    """Run the demo and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=at_least_one, help="how many files to ingest at most (default: all)")
    parser.add_argument(
        "--data-dir", type=Path, default=EXAMPLES.parent / ".demo", help="the server's folder (default: %(default)s)"
    )
    options = parser.parse_args()
    sys.stdout.reconfigure(errors="replace")
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    try:
        demo(options.files, options.data_dir.absolute(), console)
    except KeyboardInterrupt:
        print("The demo was interrupted; the next run continues with the stored data.", file=sys.stderr)
        return 130
    except (DemoFailed, DataStoreError, sandbox.SandboxError, OSError) as error:
        details = getattr(error, "traceback", "")
        print(f"{details}The demo failed: {error}", file=sys.stderr)
        return 1
    return 0


def demo(files: int | None, data_dir: Path, console: Console) -> None:
    """Start or join the embedded server, run the agents, and report."""
    start = time.perf_counter()
    sources = dict(islice(standard_library(), files))
    if not sources:
        raise DemoFailed("this machine has no readable sources of Python's standard library.")
    with join(data_dir) as server:
        known = status(data_dir)
        console.print(
            f"Python {platform.python_version()}, {known.engine} {known.version} in {data_dir}\n",
            soft_wrap=True,
            markup=False,
        )
        host = Host(server.url, choose_isolation(console))
        run_agents(host, sources, console)
        show_pipeline(host, console)
        report(host, sources, time.perf_counter() - start, console)
        show_commands(
            data_dir, host.isolation, "json/decoder.py" if "json/decoder.py" in sources else min(sources), console
        )


if __name__ == "__main__":
    sys.exit(main())
