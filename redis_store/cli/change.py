"""Commands that change data: each leaves a line in the log that `redis-store audit` shows."""

from __future__ import annotations

import typer

app = typer.Typer()
