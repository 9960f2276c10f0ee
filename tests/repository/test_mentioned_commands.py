"""Each command that a message, a docstring, a page or a help text names exists, with its options.

A mention is what stands in backticks or on a line of a code block and begins with one of our commands or `make`. A name with a
hyphen, `redis-store`, is a mention anywhere.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

import redis_store.cli
import sandbox.cli

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "redis-store": typer.main.get_command(redis_store.cli.app),
    "sandbox": typer.main.get_command(sandbox.cli.app),
}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)) - {"git"}
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
FILES = sorted(
    [
        *(
            path
            for folder in ("redis_store", "sandbox", "examples", "benchmarks")
            for path in (ROOT / folder).rglob("*.py")
        ),
        *PAGES,
        ROOT / "Makefile",
        *ROOT.glob("docker-compose*.yml"),
    ]
)

_CALL = r"(?:redis-store|sandbox|make)(?: [^`\n]*)?"
_MENTIONS = (
    re.compile(rf"`({_CALL})`"),
    re.compile(rf"^(?: {{4,}}|\$ )({_CALL})$", re.MULTILINE),
    re.compile(r"(?<![\w`/$.-])(redis-store [a-z][^`\n]*)"),
)


def texts_of(path: Path) -> Iterator[str]:
    """Yield the texts of a file: a page, or each string of a module. What an f-string puts in is left out."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield text.partition("\n## Not built yet")[0]  # where docs/design.md names commands to come
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def mentions_in(text: str) -> set[str]:
    """Return the calls in a text, up to a pipe, a comment or a closing bracket."""
    calls = {call for pattern in _MENTIONS for call in pattern.findall(text)}
    return {" ".join(re.split(r"\s[|#;&>]|[)\"]", call)[0].split()) for call in calls}


def what_is_wrong(call: str) -> str | None:
    """Say what a call names that does not exist."""
    program, *words = call.split()
    if program == "make":
        names = [word for word in words if re.fullmatch(r"[a-z-]+", word)]
        return next((f"there is no target {name!r}" for name in names if name not in TARGETS), None)
    command: Any = COMMANDS[program]
    name = program
    for word in words:
        word = word.rstrip(".,:;)")
        if word.startswith("-"):
            known = {"--help", "-h"} | {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
            if word.partition("=")[0] not in known:
                return f"{name} has no option {word}"
        elif not hasattr(command, "commands"):
            if name == "redis":  # the rest is the server's
                return None
        elif word not in command.commands:
            return f"{name} has no command {word}"
        else:
            command, name = command.commands[word], word
    return None


def test_mentioned_commands_exist() -> None:
    wrong = {
        f"{path.relative_to(ROOT)}: {call}": reason
        for path in FILES
        for text in texts_of(path)
        for call in mentions_in(text)
        if (reason := what_is_wrong(call))
    }
    assert not wrong


def test_wrong_mentions_are_found() -> None:
    text = "Enable events: redis-store polka, or `sandbox dance --high`.\n\n    make tea\n\n$ sandbox run a.py --usr b | cat\n"
    assert {call: what_is_wrong(call) for call in mentions_in(text)} == {
        "redis-store polka, or": "redis-store has no command polka",
        "sandbox dance --high": "sandbox has no command dance",
        "make tea": "there is no target 'tea'",
        "sandbox run a.py --usr b": "run has no option --usr",
    }
    fine = '`redis-store redis --raw HGET --x`, `make test ARGS="-k x"`, `redis-store server stop`. The sandbox runs agents.'
    assert len(mentions_in(fine)) == 3
    assert not any(map(what_is_wrong, mentions_in(fine)))
