"""``redis-store ui``: the web console."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redis_store.cli.session import Session, operator_command
from redis_store.errors import InvalidSettings

if TYPE_CHECKING:
    from redis_store.console.settings import ConsoleSettings

app = typer.Typer()

_PACKAGES = ("jinja2", "markupsafe", "multipart", "python_multipart", "starlette", "uvicorn")


@operator_command(app, "ui")
def ui(
    session: Session,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="The port; 0 for a free one. Default: 8377, or a free one.", show_default=False
        ),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse everything that changes data.")] = False,
    auth: Annotated[
        str, typer.Option(metavar="token|proxy", help="Ask for the token of the url, or believe a reverse proxy.")
    ] = "token",
    auth_header: Annotated[
        str, typer.Option(metavar="NAME", help="With --auth proxy: the header that names the user.")
    ] = "X-Forwarded-User",
    trust: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="With --auth proxy: the proxy's address or network.", show_default=False),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another host, or host:port, in the urls of browsers.", show_default=False),
    ] = None,
    operator: Annotated[
        str | None,
        typer.Option(
            "--as", metavar="NAME", help="Your name in the log of changes; else user@host.", show_default=False
        ),
    ] = None,
) -> None:
    """Serve the web console until Ctrl-C, and print its url.

    The url has a token that lets its browser in. The console listens on this machine only, unless --host says otherwise.
    """
    import asyncio  # takes longer than all that --help needs

    from redis_store.admin import AsyncAdmin

    serving, known = _module("serve"), _module("settings")
    settings = known.ConsoleSettings(
        host=host,
        port=known.DEFAULT_PORT if port is None else port,
        read_only=read_only,
        auth=auth,
        header=auth_header,
        trusted=known.networks_of(trust or ()),
        allowed_hosts=tuple(allow_host or ()),
    )
    listening = serving.bind(host, settings.port, else_any=port is None)
    session.follows = True

    def ready(settings: ConsoleSettings) -> None:
        if session.as_json:
            session.json_line({"url": settings.url})
        else:
            session.line(settings.url)
        if not settings.is_local:
            session.say("Other machines reach the console, without encryption: put a reverse proxy with TLS before it.")
        session.say(f"The console {'shows' if read_only else 'shows and changes'} the data until Ctrl-C.")

    async def serve() -> None:
        async with AsyncAdmin(session.url, operator=operator) as admin:
            await serving.serve(admin, settings, listening, ready)

    asyncio.run(serve())


def _module(name: str) -> Any:
    """Import a module of the console, whose packages may be missing."""
    try:
        return importlib.import_module(f"redis_store.console.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _PACKAGES:
            raise
        raise InvalidSettings(
            f"The package {error.name!r} is not installed: pip install 'agent-data-store[ui]'."
        ) from error
