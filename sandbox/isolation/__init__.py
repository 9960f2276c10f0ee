"""Tiers of isolation, zygotes and agent processes."""

from sandbox.isolation.tiers import ENVIRONMENT, TIERS, UNSAFE, available, start_child

__all__ = ["ENVIRONMENT", "TIERS", "UNSAFE", "available", "start_child"]
