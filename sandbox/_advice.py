"""What to install or to allow, so that a better tier of isolation can be had."""

from __future__ import annotations


def advice() -> str:
    """Return one sentence for an error message."""
    return "see `sandbox doctor`."
