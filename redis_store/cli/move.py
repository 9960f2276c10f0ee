"""Commands that export and import data."""

from __future__ import annotations

import typer

app = typer.Typer()
