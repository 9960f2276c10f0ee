"""The command that checks a server and its data, and mends what can be mended."""

from __future__ import annotations

import typer

app = typer.Typer()
