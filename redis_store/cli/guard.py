"""Commands for logins that reach one user's data."""

from __future__ import annotations

import typer

app = typer.Typer()
