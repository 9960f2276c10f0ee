"""Vectors for the search by meaning: the texts of an item that are embedded, vectors as values, and their similarity."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping, Sequence
from operator import mul
from typing import Any, TypeAlias

from langgraph.store.base import IndexConfig, PutOp, ensure_embeddings, get_text_at_path

from redis_store import InvalidInput, Json, bytes_from_json, bytes_to_json

Vector: TypeAlias = "array[float]"
"""32-bit floats: a vector of length 1, or of zeros."""


class Embedder:
    """What an `IndexConfig` says: which fields of an item are embedded, by what, and with how many dimensions."""

    def __init__(self, index: IndexConfig) -> None:
        self.embeddings = ensure_embeddings(index.get("embed"))
        self._fields = list(index.get("fields") or ["$"])
        self._dims = index.get("dims")

    def texts_of(self, put: PutOp) -> list[str]:
        """Return the texts of an item that are embedded."""
        if put.value is None or put.index is False:
            return []
        fields = self._fields if put.index is None else put.index
        return [text for field in fields for text in get_text_at_path(put.value, field)]

    def unit(self, numbers: Sequence[float]) -> Vector:
        """Return an embedding as a vector of length 1, or of zeros."""
        vector = array("f", numbers)
        if self._dims is not None and len(vector) != self._dims:
            raise InvalidInput(
                f"An embedding has {len(vector)} dimensions, and the index has dims={self._dims}: nothing was stored."
                " Pass the dims of the model."
            )
        length = sum(map(mul, vector, vector)) ** 0.5
        return array("f", [number / length for number in vector]) if length else vector

    def units(self, texts: Sequence[str], embeddings: Sequence[Sequence[float]]) -> dict[str, Vector]:
        """Return the vectors of texts."""
        if len(embeddings) != len(texts):
            raise InvalidInput(
                f"The embed function returned {len(embeddings)} embeddings for {len(texts)} texts: nothing was stored."
                " It must return one for each."
            )
        return {text: self.unit(numbers) for text, numbers in zip(texts, embeddings, strict=True)}


def vector_to_json(vector: Vector) -> str:
    """Return a vector as a value: the base64 text of its little-endian 32-bit floats."""
    return bytes_to_json(_little_endian(vector).tobytes())


def vectors_from_json(row: Json) -> list[Vector]:
    """Return the vectors of an item; none for what is not a list of them."""
    vectors = []
    for text in row if isinstance(row, list) else ():
        vector = array("f")
        vector.frombytes(bytes_from_json(text))
        vectors.append(_little_endian(vector))
    return vectors


def best_scores(query: Vector, rows: Mapping[str, Json]) -> dict[str, float]:
    """Return the highest cosine similarity of each item's vectors with the query, for the items that have one."""
    owners: list[str] = []
    vectors: list[Vector] = []
    for key, row in rows.items():
        for vector in vectors_from_json(row):
            if len(vector) != len(query):
                raise InvalidInput(
                    f"The item {key!r} was embedded with {len(vector)} dimensions, and the query with {len(query)}: search with"
                    " the embed function that it was stored with, or store it again."
                )
            owners.append(key)
            vectors.append(vector)
    best: dict[str, float] = {}
    for key, score in zip(owners, _products(query, vectors), strict=True):
        best[key] = max(score, best.get(key, -2.0))
    return best


def _products(query: Vector, vectors: list[Vector]) -> list[float]:
    numpy = _numpy()
    if numpy is None or not vectors:
        numbers = query.tolist()
        return [sum(map(mul, numbers, vector)) for vector in vectors]
    matrix = numpy.frombuffer(b"".join(vector.tobytes() for vector in vectors), dtype=numpy.float32)
    products = matrix.reshape(len(vectors), len(query)) @ numpy.frombuffer(query, dtype=numpy.float32)
    return [float(product) for product in products]


def _numpy() -> Any:
    try:
        import numpy  # optional: many vectors are compared faster
    except ImportError:
        return None
    return numpy


def _little_endian(vector: Vector) -> Vector:
    if sys.byteorder == "big":
        vector = vector[:]
        vector.byteswap()
    return vector
