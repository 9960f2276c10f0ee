"""Previews of values, with secrets masked."""

from __future__ import annotations

import re

MASK = "***"

_NAME = re.compile(
    r"passw|passphrase|pwd|secret|token|api[_-]?key|(?:access|private|signing|encryption)[_-]?key|credential|authoriz"
    r"|cookie|session[_-]?id|bearer|connection[_-]?string|(?:^|[_-])(?:pat|auth|dsn|pin)$",
    re.IGNORECASE,
)

_WIDE = "A-Za-z0-9+/_-"

_VALUE = re.compile(
    r"-----BEGIN[ A-Z]*PRIVATE KEY-----.*"
    r"|(?<!\w)(?:sk|pk|rk|whsec|hf|npm|pypi|glpat|gh[pousr]|github_pat|xox[a-z])[-_][\w-]{16,}"
    r"|(?<!\w)(?:AKIA|ASIA)[0-9A-Z]{16}(?!\w)"
    r"|(?<!\w)AIza[\w-]{30,}"
    r"|(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"
    r"|(?<=://)[^\s/:@\"]*:[^\s/@\"]+(?=@)"
    r"|(?<=[Bb]earer )[\w.~+/-]{12,}=*"
    r"|(?<![0-9A-Za-z])(?:[0-9a-f]{32,}|[0-9A-F]{32,})(?![0-9A-Za-z])"
    rf"|(?<![{_WIDE}])(?=[{_WIDE}]*[a-z])(?=[{_WIDE}]*[A-Z])(?=[{_WIDE}]*[0-9])[{_WIDE}]{{32,}}={{0,2}}",
    re.DOTALL,
)

PREVIEW_CHARACTERS = 200

PREVIEW_SOURCE_BYTES = 512
"""Length of the text examined for a preview, in bytes. A value cut off there is masked by the part before the cut."""

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}:,]|\s+|[^\s\[\]{}:,"]+', re.DOTALL)


class Hidden:
    """The beginning of a stored value. Only `preview` shows it, and masks secrets when it is called."""

    __slots__ = ("_cut", "_key", "_start")

    def __init__(self, text: bytes, key: str | None) -> None:
        self._start = text[:PREVIEW_SOURCE_BYTES]
        self._cut = len(text) > PREVIEW_SOURCE_BYTES
        self._key = key

    def preview(self) -> str:
        """Return the beginning of the value with secrets masked."""
        return preview(self._start + b" " if self._cut else self._start, self._key)

    def __repr__(self) -> str:
        return "<hidden>"


def preview(text: bytes, key: str | None = None) -> str:
    """Return the first 200 characters of a JSON text, with strings under a name such as ``password`` masked at any depth."""
    return beginning(text, PREVIEW_SOURCE_BYTES, PREVIEW_CHARACTERS, key)


def beginning(text: bytes, source_bytes: int, characters: int, key: str | None = None) -> str:
    """Return the first `characters` of a JSON text, masked like a preview; `source_bytes` of it are examined."""
    source = text[:source_bytes].decode(errors="ignore")
    tokens = _TOKEN.findall(source)
    shown = "".join(_masked(tokens, everything=key is not None and is_secret_name(key)))
    if len(shown) <= characters and len(text) <= source_bytes:
        return shown
    return shown[: characters - 1] + "…"


def _masked(tokens: list[str], everything: bool) -> list[str]:
    """Return the tokens of a JSON text, with strings under a secret name masked."""
    shown: list[str] = []
    depth = 0
    hidden_above = -1 if everything else None
    is_secret = False
    for place, token in enumerate(tokens):
        if token.startswith('"'):
            if _is_key(tokens, place):
                is_secret = is_secret_name(token.strip('"'))
                token = without_secrets(token)
            else:
                token = f'"{MASK}"' if is_secret or hidden_above is not None else without_secrets(token)
                is_secret = False
        elif token in "{[":
            if is_secret and hidden_above is None:
                hidden_above = depth
            depth, is_secret = depth + 1, False
        elif token in "}]":
            depth -= 1
            if depth == hidden_above:
                hidden_above = None
        elif token == ",":
            is_secret = False
        shown.append(token)
    return shown


def _is_key(tokens: list[str], place: int) -> bool:
    following = place + 1
    if following < len(tokens) and tokens[following].isspace():
        following += 1
    return following < len(tokens) and tokens[following] == ":"


def is_secret_name(name: str) -> bool:
    """Whether a value under this name is likely a secret."""
    return _NAME.search(name[:200]) is not None


def without_secrets(text: str) -> str:
    """Return a text with likely API keys, tokens and passwords masked."""
    return _VALUE.sub(MASK, text)
