"""Text of agents, packages and servers in lines of ours, on terminals and in logs: it controls no terminal and forges no line.

Such a text may hold escape sequences (one of them sets the clipboard), carriage returns that overwrite a line, marks that
reverse the order of letters, and line ends before a line that looks like ours.
"""

from __future__ import annotations

import json
import logging
import re
import traceback

MARK = "| "
"""Beginning of each line of a quoted text, of each line after the first of a message, and of each further row of a long line."""

_FEWEST_COLUMNS = 10
"""Width up to which a terminal's rows are told from ours."""

_CONTROLS = (
    "\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
    "\u2028\u2029"  # the ends of lines and paragraphs
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # directions
    "\xad\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # unseen
    "\ud800-\udfff"  # halves of surrogate pairs, which no stream can encode
)
_IN_A_LINE = re.compile(f"[{_CONTROLS}]")
_IN_A_TEXT = re.compile(f"(?![\t\n])[{_CONTROLS}]")


def one_line(text: object) -> str:
    """Return a text with control characters, line ends and tabs as escapes such as ``\\x1b``."""
    return _IN_A_LINE.sub(_escape, str(text))


def escaped(text: str) -> str:
    """Return a text of several lines with control characters as escapes. Line feeds and tabs stay."""
    return _IN_A_TEXT.sub(_escape, text)


def quoted(text: str) -> str:
    """Return a text of several lines, escaped and with `MARK` before each line, so that none of them looks like ours."""
    return MARK + message(text.rstrip())


def message(text: str) -> str:
    """Return a message, escaped, with `MARK` before each line but the first."""
    return escaped(text).replace("\n", f"\n{MARK}")


def folded(text: str, columns: int) -> str:
    """Return a text with `MARK` before each row but the first that a long line takes on a terminal; with 0 columns, as it is.

    Otherwise a line could be as long as it takes for its end to look like a line of its own.
    """
    return "\n".join(f"\n{MARK}".join(_rows(line, columns)) for line in text.split("\n")) if columns else text


def _rows(line: str, columns: int) -> list[str]:
    """Return a line in pieces that fit into a row of a terminal, the later ones behind `MARK`."""
    line = line.expandtabs()
    rows, start, used = [], 0, 0
    for at, character in enumerate(line):
        cells = 1 if character.isascii() else 2  # at most
        if used + cells > max(columns, _FEWEST_COLUMNS):
            rows.append(line[start:at])
            start, used = at, len(MARK)
        used += cells
    return [*rows, line[start:]]


def json_text(value: object, indent: int | None = None) -> str:
    """Return a value as JSON that may be shown on a terminal: the same value, with control characters as JSON's escapes."""
    return _IN_A_TEXT.sub(_json_escape, json.dumps(value, ensure_ascii=False, indent=indent))


def traceback_of(error: BaseException) -> str:
    """Return Python's text about an exception, quoted."""
    return quoted("".join(traceback.format_exception(error)))


class PrintableRecords(logging.Filter):
    """Escapes the log records of this package's loggers: their messages, and the tracebacks of exceptions."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            said = record.getMessage()
        except Exception:  # arguments that do not fit the message: the handlers report that
            return True
        if _IN_A_LINE.search(said):
            record.msg, record.args = one_line(said), None
        if record.exc_info and record.exc_info[1] and not record.exc_text:
            record.exc_text = traceback_of(record.exc_info[1])  # formatters use it in place of one of their own
        return True


def _escape(found: re.Match[str]) -> str:
    return repr(found[0])[1:-1]


def _json_escape(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1] if found[0] != "\x7f" else "\\u007f"
