"""Agents that run on changes."""

from sandbox.consumers.consumer import Consumer, ConsumerEvent, on_change

__all__ = ["Consumer", "ConsumerEvent", "on_change"]
