"""Tiers of isolation, zygotes and processes: how an agent process comes to be."""

from sandbox.isolation.tiers import ENVIRONMENT, TIERS, UNSAFE, available, start_child

__all__ = ["ENVIRONMENT", "TIERS", "UNSAFE", "available", "start_child"]
