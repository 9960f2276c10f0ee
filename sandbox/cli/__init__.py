"""The command `sandbox`."""

from sandbox.cli.app import app, main

__all__ = ["app", "main"]
