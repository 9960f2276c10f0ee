"""Results and exceptions built to harm the host that reads them."""

from __future__ import annotations

from typing import Any

import pytest

import sandbox

ENDINGS = {
    "a dict of its own kind": "class D(dict):\n    def items(self): raise SystemExit(5)\n    __iter__ = __len__ = keys = items\nreturn D(a=1)",
    "a key that is a trap": "class S(str):\n    def encode(self, *a): return b'{'\n    __str__ = __repr__ = encode\nreturn {S('a'): S('b')}",
    "a number that is a trap": "class I(int):\n    def __repr__(self): return 'evil'\n    __str__ = __repr__\nreturn {'a': I(5)}",
    "itself": "d = {}; d['d'] = d; return d",
    "deep": "d = {}\nfor _ in range(100_000): d = {'d': d}\nreturn d",
    "not a number": "return {'a': float('nan')}",
    "a huge number": "return {'a': 10**5000}",
    "a lone surrogate": "return {'a': '\\ud800'}",
    "a key with a lone surrogate": "return {'\\udfff': 1}",
    "control characters": "return {'a': '\\x1b]0;evil\\x07\\x00'}",
    "over the limit": "return {'a': 'x' * 20_000_000}",
    "an exception that cannot be shown": "class E(Exception):\n    def __str__(self): raise self\n    __repr__ = __str__\nraise E",
    "an exception whose text is no text": "class E(Exception):\n    def __str__(self): return 7\nraise E",
    "an exception with a huge text": "raise ValueError('x' * 50_000_000)",
    "an exception with a huge name": "raise type('E' * 1_000_000, (Exception,), {})()",
    "an exception with a name of traps": "raise type('E\\ud800\\x1b[2J\\n', (Exception,), {})('\\ud800')",
    "an exception that causes itself": "e = ValueError('a'); e.__cause__ = e; e.__context__ = e; raise e",
    "a long chain of exceptions": "e = None\nfor n in range(20_000):\n    f = ValueError(str(n)); f.__cause__ = e; e = f\nraise e",
    "a group of groups": "e = ValueError()\nfor _ in range(200): e = ExceptionGroup('g', [e, e])\nraise e",
    "a traceback of its own": "import types\ntry: 1 / 0\nexcept ZeroDivisionError as e: e.__traceback__ = None; raise",
    "a recursion": "def f(): return f()\nf()",
    "an exit that is a trap": "class C:\n    def __str__(self): raise KeyboardInterrupt\nraise SystemExit(C())",
    "an exit with a huge code": "raise SystemExit(10**100)",
    "an interrupt": "raise KeyboardInterrupt",
    "the end of a generator": "raise StopIteration",
    "a class that lies": "class L(dict):\n    @property\n    def __class__(self): return list\nreturn L()",
    "an awaitable that never ends well": "class A:\n    def __await__(self):\n        raise GeneratorExit\nreturn A()",
    "a coroutine of something else": "import types\n@types.coroutine\ndef c(): yield 7\nreturn c()",
    "a replaced exit": "import os, sys\nos._exit = sys.exit = print\nreturn {'a': 1}",
    "a replaced encoder": "import json\njson.dumps = lambda *a, **k: '{'\nreturn {'a': 1}",
    "a hook for exceptions": "import sys\nsys.excepthook = sys.unraisablehook = lambda *a: 1 / 0\nraise ValueError('a')",
    "a trace function": "import sys\nsys.settrace(lambda *a: 1 / 0)\nreturn {'a': 1}",
    "a broken stdout": "import sys\nsys.stdout = sys.stderr = None\nreturn {'a': 1}",
}


@pytest.mark.parametrize("name", ENDINGS)
def test_hostile_result_does_not_harm_the_host(
    name: str, user: str, server_url: str, as_before: None, benign: Any
) -> None:
    """Run only in the best tier: the host reads the same in every tier. The outcome is a named error with short text."""
    body = "\n".join(f"    {line}" for line in ENDINGS[name].splitlines())
    result = sandbox.run(
        f"def run(input_dict, tools):\n{body}\n", {}, user=user, url=server_url, limits=sandbox.Limits(timeout_s=1)
    )
    error = result.error
    assert isinstance(error, (type(None), sandbox.AgentError, sandbox.LimitExceeded, sandbox.ProtocolViolation)), result
    if error is not None:
        assert len(str(error)) < 70_000
        str(error).encode()
        getattr(error, "traceback", "").encode()
        assert len(getattr(error, "traceback", "")) < 300_000
    else:
        assert result.output is not None
        assert len(repr(result.output)) < 1000
    benign(sandbox.isolation.available())
