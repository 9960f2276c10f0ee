"""Agents that run on changes."""

from sandbox.consumers.batches import ConsumerEvent
from sandbox.consumers.consumer import Consumer, on_change

__all__ = ["Consumer", "ConsumerEvent", "on_change"]
