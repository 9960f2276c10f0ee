"""Conversions of what the store does not take as it is, for all integrations: names that are too long or invalid, and bytes."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from contextlib import suppress
from hashlib import sha256

from redis_store.errors import DataStoreError, InvalidInput, InvalidType
from redis_store.namespace.keys import MAX_KEY_BYTES, encode_name
from redis_store.types import Json

CUT = re.compile(r"~[0-9a-f]{64}\Z")
"""The end of a name that `fit_name` has cut."""

_SUFFIX_BYTES = 65


def fit_name(name: str, most_bytes: int = MAX_KEY_BYTES) -> str:
    """Return a name that can be a key, or with ``most_bytes=1024`` that of a namespace: itself, if it can be one.

    Another name, too long or with a character that names may not have, is cut and gets ``~`` and the 64 hex digits of its
    SHA-256. Different names stay different: a name that ends like that already gets a suffix too. A name with a suffix cannot be
    turned back, so store the original where it is needed.
    """
    if not isinstance(name, str):
        raise InvalidType(f"A name must be a str, not {type(name).__name__}.")
    if most_bytes < _SUFFIX_BYTES:
        raise InvalidInput(f"most_bytes must be at least {_SUFFIX_BYTES}, for the suffix, not {most_bytes}.")
    if not CUT.search(name):
        with suppress(DataStoreError):
            encode_name(name, "name", most_bytes)
            return name
    whole = name.encode(errors="surrogatepass")
    begin = whole[: most_bytes - _SUFFIX_BYTES].decode(errors="ignore")
    return f"{begin}~{sha256(whole).hexdigest()}"


def bytes_to_json(data: bytes) -> str:
    """Return bytes as a value: their base64 text, with the standard alphabet and padding."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InvalidType(f"bytes_to_json takes bytes, not {type(data).__name__}.")
    return b64encode(data).decode()


def bytes_from_json(value: Json) -> bytes:
    """Return the bytes of a value that `bytes_to_json` has made, or raise `InvalidInput`."""
    try:
        return b64decode(value.encode("ascii"), validate=True)
    except (AttributeError, ValueError):
        raise InvalidInput("The value is not base64 text: bytes_to_json did not make it.") from None
