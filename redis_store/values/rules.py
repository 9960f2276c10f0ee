"""The rules for valid values, in plain Python: the reference with which the fast path of `values/codec.py` must agree.

This module imports only the standard library and `errors`, because the sandbox's child uses it too.
"""

from __future__ import annotations

import enum
import json
import math
from typing import Any, NoReturn

from redis_store.errors import CorruptValue, InvalidValue, UnsupportedEncoding

MAX_DEPTH = 254
"""Bound on the nesting of lists and dicts, in levels: a scalar has depth 0, ``[]`` has 1. It is the bound of `orjson.dumps`."""

MAX_INT_DIGITS = 4300
"""Bound on an int, in digits: Python's default for converting ints to text (`sys.int_info.default_max_str_digits`)."""

_INT_LIMIT = 10**MAX_INT_DIGITS


_NOT_JSON = "JSON has null, booleans, numbers, strings, lists and objects only"
_INSTEAD = {
    "datetime.date": "use its .isoformat()",
    "datetime.time": "use its .isoformat()",
    "datetime.timedelta": "use its .total_seconds()",
    "builtins.set": "use a list of its elements, such as sorted(...)",
    "builtins.frozenset": "use a list of its elements, such as sorted(...)",
    "decimal.Decimal": "use str(...) or float(...) of it",
    "fractions.Fraction": "use str(...) or float(...) of it",
    "builtins.complex": "use a list of its parts",
    "builtins.bytes": "use its .decode() if it is text, or encode it with base64",
    "builtins.bytearray": "use its .decode() if it is text, or encode it with base64",
    "builtins.memoryview": "encode it with base64",
    "uuid.UUID": "use str(...) of it",
    "pathlib.PurePath": "use str(...) of it",
    "pathlib._local.PurePath": "use str(...) of it",
    "builtins.coroutine": "write await before the call that returned it",
    "_asyncio.Future": "write await before it",
    "asyncio.futures.Future": "write await before it",
    "builtins.generator": "use list(...) of it",
    "builtins.range": "use list(...) of it",
    "collections.deque": "use list(...) of it",
    "builtins.dict_keys": "use list(...) of it",
    "builtins.dict_values": "use list(...) of it",
    "builtins.dict_items": "use dict(...) of it",
    "builtins.map": "use list(...) of it",
    "builtins.filter": "use list(...) of it",
    "builtins.zip": "use list(...) of it",
}
"""Advice about values of common classes, by their full names: of other modules none is imported here."""
_INSTEAD_BY_ATTRIBUTE = {
    "__dataclass_fields__": "use dataclasses.asdict(...) of it",
    "model_dump": "use its .model_dump(mode='json')",
    "to_dict": "use its .to_dict()",
    "tolist": "use its .tolist()",
}


def instead_of(kind: type) -> str:
    """Return advice about a value of a class that JSON cannot represent."""
    for base in kind.__mro__:
        advice = _INSTEAD.get(f"{base.__module__}.{base.__qualname__}")
        if advice is not None:
            return advice
    return next((advice for name, advice in _INSTEAD_BY_ATTRIBUTE.items() if hasattr(kind, name)), _NOT_JSON)


def one(kind: type) -> str:
    """Return the name of a class with its article."""
    return f"{'an' if kind.__name__[:1] in 'AEIOaeio' else 'a'} {kind.__name__}"


def to_plain(value: object) -> Any:
    """Return `value` rebuilt from exact builtin types only, with dict keys as text, as `json` writes them.

    Raises `InvalidValue` with the path of the first element that JSON cannot represent.
    """
    return _plain(value, "value", 0)


def dump(value: object) -> bytes:
    """Return the JSON text of `value` in UTF-8, or raise `InvalidValue`."""
    return json.dumps(to_plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def load(text: bytes | str) -> Any:
    """Parse JSON strictly: no NaN, overflowing float or lone surrogate. Raises `ValueError` or `RecursionError`."""
    if isinstance(text, bytes):
        text = text.decode()  # `json` would also detect UTF-16 and UTF-32
    value = _decoder.decode(text)
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError, a ValueError, on a lone surrogate
    return value


def not_json(text: bytes, namespace: str, key: str) -> CorruptValue:
    """Return the error for a stored value that is not JSON."""
    first = text[:32]
    return CorruptValue(
        f"The value of {key!r} in namespace {namespace!r} is not JSON (it begins with {first!r}): set it again, or delete it.",
        namespace=namespace,
        key=key,
        first_bytes=first,
    )


def not_readable(namespace: str, key: str) -> UnsupportedEncoding:
    """Return the error for a stored value in an encoding that a later version wrote."""
    return UnsupportedEncoding(
        f"The value of {key!r} in namespace {namespace!r} has an encoding that this version cannot read: upgrade"
        " agent-data-store.",
        namespace=namespace,
        key=key,
    )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite_float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:32]} is out of the range of a float")
    return number


_decoder = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite_float)


def _plain(value: Any, path: str, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return _checked_str(value, path)
    if value is None or kind is bool:
        return value
    if isinstance(value, enum.Enum):
        raise _refusal(path, f"is an enum member ({kind.__name__})", "store its .value")
    if isinstance(value, int):
        return _checked_int(value, path)
    if isinstance(value, float):
        return _checked_float(value, path)
    if isinstance(value, str):
        return _checked_str(str.__str__(value), path)
    if isinstance(value, (list, tuple, dict)):
        if depth == MAX_DEPTH:
            raise _refusal(path, f"is nested deeper than {MAX_DEPTH} levels", "flatten it (is it circular?)")
        return _plain_dict(value, path, depth + 1) if isinstance(value, dict) else _plain_list(value, path, depth + 1)
    raise _refusal(path, f"is {one(kind)}", instead_of(kind))


def _plain_list(items: Any, path: str, depth: int) -> list[Any]:
    return [_plain(item, f"{path}[{index}]", depth) for index, item in enumerate(items)]


def _plain_dict(items: dict[Any, Any], path: str, depth: int) -> dict[str, Any]:
    plain = {}
    for key, item in items.items():
        text = _key_text(key, path)
        plain[text] = _plain(item, f"{path}[{_short(key)}]", depth)
    return plain


def _key_text(key: object, path: str) -> str:
    """Return a dict key as the `json` module writes it: ``None`` as ``null``, ``True`` as ``true``, ``1`` as ``1``."""
    where = f"a key of {path}"
    if isinstance(key, enum.Enum):
        raise _refusal(path, f"has the enum member {_short(key)} as a key", "use its .value")
    if isinstance(key, str):
        return _checked_str(str.__str__(key), path, where)
    if key is None:
        return "null"
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, int):
        return int.__repr__(_checked_int(key, path, where))
    if isinstance(key, float):
        return float.__repr__(_checked_float(key, path, where))
    raise _refusal(path, f"has {one(type(key))} as a key", "keys are strings (int, float, bool, None become text)")


def _checked_str(text: str, path: str, where: str = "") -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        problem = f"has a lone surrogate at character {error.start}"
        raise _refusal(path, problem, "encode it, for example with base64", where) from None
    return text


def _checked_int(number: int, path: str, where: str = "") -> int:
    number = int(number)
    if not -_INT_LIMIT < number < _INT_LIMIT:
        raise _refusal(path, f"is an int of more than {MAX_INT_DIGITS} digits", "store it as a string", where)
    return number


def _checked_float(number: float, path: str, where: str = "") -> float:
    number = float(number)
    if not math.isfinite(number):
        raise _refusal(path, f"is {number}, which JSON cannot represent", "store None or a string", where)
    return number


def _short(key: object) -> str:
    text = json.dumps(str.__str__(key), ensure_ascii=False) if isinstance(key, str) else repr(key)
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= 64 else text[:61] + "..."


def _refusal(path: str, problem: str, advice: str, where: str = "") -> InvalidValue:
    """Return the error for the element at `path`; `where` names it more precisely if it is a key."""
    shown = where or path
    shown = shown if len(shown) <= 200 else f"{shown[:100]}...{shown[-60:]}"
    return InvalidValue(f"{shown} {problem}: {advice}.", path=path)
