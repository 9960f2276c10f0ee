"""What looks like a secret, by its name or by itself, so that timelines and signatures need not show it.

Every pattern takes time linear in the text: what it is applied to was written by agents.
"""

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


def is_secret_name(name: str) -> bool:
    """Whether what goes by this name should not be shown."""
    return _NAME.search(name[:200]) is not None


def without_secrets(text: str) -> str:
    """Return a text with what looks like keys, tokens and passwords masked."""
    return _VALUE.sub(MASK, text)
