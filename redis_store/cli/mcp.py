"""``redis-store mcp``: serves a user's store to MCP clients."""

from __future__ import annotations

import importlib
import os
from typing import Annotated, Any

import typer

from redis_store.cli.session import DataDirOption, UrlOption
from redis_store.errors import InvalidSettings


def register(app: typer.Typer) -> None:
    """Add the command ``mcp`` to the application."""
    app.command("mcp")(mcp)


def mcp(
    user: Annotated[str, typer.Option(metavar="NAME", help="The user whose data is served.", show_default=False)],
    namespace: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Serve this namespace only; else all of the user's.", show_default=False),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Offer no tools that write.")] = False,
    agent: Annotated[str, typer.Option(metavar="NAME", help="The name under which it writes.")] = "mcp",
    max_tokens: Annotated[int, typer.Option(metavar="COUNT", help="Longest answer, in tokens, estimated.")] = 8000,
    http: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Serve streamable HTTP there, instead of stdio.", show_default=False),
    ] = None,
    url: UrlOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Serve a user's store to an MCP client on stdin and stdout, or to several by HTTP.

    For a client's configuration:

    uvx --from '/path/to/agent-data-store[mcp]' redis-store mcp --user NAME

    With --http, requests need the bearer token in REDIS_STORE_MCP_TOKEN, if it is set. Addresses of other machines need one.
    """
    import asyncio  # takes longer than all that --help needs

    adapter = _adapter()
    if data_dir is not None and url is None:
        os.environ.pop("REDIS_URL", None)  # --data-dir names the embedded server, as in the other commands
    address = None if http is None else _address(http)
    options: dict[str, Any] = {
        "namespace": namespace,
        "agent": agent,
        "read_only": read_only,
        "most_tokens": max_tokens,
    }
    if data_dir is not None:
        options |= {"data_dir": data_dir, "embedded": True}
    server = adapter.mcp_server(url, user=user, **options)
    if address is None:
        serving = adapter.serve_stdio(server)
    else:
        serving = adapter.serve_http(server, *address, os.environ.get("REDIS_STORE_MCP_TOKEN") or None)
    try:
        asyncio.run(serving)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _adapter() -> Any:
    """Import the adapter by name: integrations are above this package, and need a package that may be missing."""
    try:
        return importlib.import_module("redis_store.integrations.mcp")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types", "uvicorn"):
            raise
        raise InvalidSettings(
            f"The package {error.name!r} is not installed: pip install 'agent-data-store[mcp]'."
        ) from error


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise InvalidSettings(f"--http {text!r} has no port: pass a host and a port, such as 127.0.0.1:8000.")
    return host.strip("[]") or "127.0.0.1", int(port)
