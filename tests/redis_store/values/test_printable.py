"""Text of agents and others in lines of ours: nothing in it controls a terminal, ends a line or reverses one."""

from __future__ import annotations

import io
import json
import logging
import threading
import unicodedata

import pytest

import sandbox
from redis_store.cli import main
from redis_store.cli.reply_format import ErrorReply, StatusReply, for_people
from redis_store.errors import DataStoreError
from redis_store.values.printable import escaped, json_text, message, one_line, quoted

CLIPBOARD = "\x1b]52;c;cm0gLXJm\x07"
MADE_UP = f"no{CLIPBOARD}\x9b2J\r\nTraceback (most recent call last):\u2028\u202eko :erots-sider\x85\udcff"
SHOWN = (
    "no\\x1b]52;c;cm0gLXJm\\x07\\x9b2J\\r\\nTraceback (most recent call last):\\u2028\\u202eko :erots-sider\\x85\\udcff"
)


def test_what_is_escaped() -> None:
    every = [chr(number) for number in (*range(0x3000), *range(0xD7F0, 0x10000), *range(0xE0000, 0xE0200))]
    changed = {letter for letter in every if one_line(letter) != letter}
    controls = {letter for letter in every if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")}
    directions = {
        letter for letter in every if unicodedata.bidirectional(letter) in ("LRE", "RLE", "LRO", "RLO", "PDF")
    }
    isolates = {letter for letter in every if unicodedata.bidirectional(letter) in ("LRI", "RLI", "FSI", "PDI")}
    assert changed >= controls | directions | isolates | {"\u200e", "\u200f", "\u061c", "\ufeff", "\U000e0041"}
    assert {unicodedata.category(letter) for letter in changed - controls} <= {"Cf", "Cn"}
    assert one_line("Zoë 日本 👩‍💻 \\") == "Zoë 日本 👩‍💻 \\"
    assert one_line(MADE_UP) == SHOWN


def test_lines_of_a_text_are_marked() -> None:
    assert escaped("a\tb\n\rc") == "a\tb\n\\rc"
    assert quoted("Traceback:\n\n  x\n") == "| Traceback:\n| \n|   x"
    assert message(f"Failed: {MADE_UP}").splitlines() == [
        "Failed: no\\x1b]52;c;cm0gLXJm\\x07\\x9b2J\\r",
        "| Traceback (most recent call last):\\u2028\\u202eko :erots-sider\\x85\\udcff",
    ]


@pytest.mark.parametrize("indent", [None, 2])
def test_json_is_the_same_value(indent: int | None) -> None:
    value = {MADE_UP: [MADE_UP, "\x7f\U000e0041é"]}
    text = json_text(value, indent)
    assert json.loads(text) == value
    assert escaped(text) == text
    assert "é" in text


@pytest.mark.parametrize("name", ["redis_store", "redis_store.watch.sync", sandbox.__name__])
def test_log_records_are_escaped(name: str) -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        logger.warning("%d %s", 3, DataStoreError(MADE_UP))
        try:
            raise ValueError(MADE_UP)
        except ValueError:
            logger.exception("failed")
    finally:
        logger.removeHandler(handler)
    first, second, *lines = written.getvalue().split("\n")
    assert (first, second) == (f"3 {SHOWN}", "failed")
    assert lines[0] == "| Traceback (most recent call last):"
    assert all(line.startswith("| ") for line in lines if line)
    assert one_line("".join(lines)) == "".join(lines)


def test_formatted_replies_control_no_terminal() -> None:
    bad = MADE_UP.encode(errors="surrogateescape")
    replies = [ErrorReply(bad), StatusReply(bad), bad]
    shown = for_people([*replies])
    assert shown.count(b"\n") == 3
    assert escaped(shown.decode()) == shown.decode()


@pytest.mark.parametrize("failure", [DataStoreError, RuntimeError])
def test_the_command_escapes_errors(
    failure: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*, prog_name: str) -> None:
        failed = threading.Thread(target=fail_in_thread)
        failed.start()
        failed.join()
        raise failure(MADE_UP)

    def fail_in_thread() -> None:
        raise ValueError(MADE_UP)

    monkeypatch.setattr("redis_store.cli.app", fail)
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert escaped(said) == said
    ours = [line for line in said.splitlines() if not line.startswith("| ")]
    assert ours == (["redis-store: no\\x1b]52;c;cm0gLXJm\\x07\\x9b2J\\r"] if failure is DataStoreError else [])
    assert said.count("no\\x1b]52;") == 2
