"""The conditions of a LangGraph search: exact values, nested objects and operators; and the patterns of namespaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import ge, gt, le, lt
from typing import Any

from langgraph.store.base import MatchCondition

from redis_store import InvalidInput

_ORDERED: dict[str, Callable[[Any, Any], bool]] = {"$gt": gt, "$gte": ge, "$lt": lt, "$lte": le}


def fits(value: Mapping[str, Any], wanted: Mapping[str, Any] | None) -> bool:
    """Return whether an item's value fulfils all conditions."""
    return all(_holds(value.get(name), condition) for name, condition in (wanted or {}).items())


def matches(path: tuple[str, ...], condition: MatchCondition) -> bool:
    """Return whether a namespace begins, or ends, with a pattern in which ``*`` stands for any label."""
    length = len(condition.path)
    if len(path) < length:
        return False
    part = path[:length] if condition.match_type == "prefix" else path[len(path) - length :]
    return all(pattern in ("*", label) for pattern, label in zip(condition.path, part, strict=True))


def _holds(value: Any, condition: Any) -> bool:
    if isinstance(condition, dict):
        if any(str(name).startswith("$") for name in condition):
            return all(_compare(value, operator, operand) for operator, operand in condition.items())
        return isinstance(value, dict) and all(_holds(value.get(name), each) for name, each in condition.items())
    if isinstance(condition, (list, tuple)):
        return (
            isinstance(value, list)
            and len(value) == len(condition)
            and all(_holds(*pair) for pair in zip(value, condition, strict=True))
        )
    return bool(value == condition)


def _compare(value: Any, operator: str, operand: Any) -> bool:
    if operator == "$eq":
        return bool(value == operand)
    if operator == "$ne":
        return bool(value != operand)
    if operator not in _ORDERED:
        raise InvalidInput(f"The filter has the operator {operator!r}: use $eq, $ne, $gt, $gte, $lt or $lte.")
    compare = _ORDERED[operator]
    try:
        return compare(float(value), float(operand))
    except (TypeError, ValueError):  # texts such as dates are compared as texts, and nothing else compares
        return isinstance(value, str) and isinstance(operand, str) and compare(value, operand)
