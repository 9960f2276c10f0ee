"""The command `sandbox watch`."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from redis_store.errors import DataStoreError, InvalidInput
from sandbox import errors
from sandbox.cli import options as cli_options
from sandbox.cli.output import CALLED_WRONGLY, FAILED, INTERRUPTED, explained, leave, to_stderr, write
from sandbox.consumers.batches import ConsumerEvent
from sandbox.consumers.consumer import Consumer, on_change
from sandbox.limits import Limits

_KEYS_SHOWN = 3


def watch(
    agent_file: Annotated[Path, typer.Argument(metavar="AGENT.PY", help="The agent: a file with a run function.")],
    user: Annotated[str, typer.Option(help="Whose data is watched, and the agent works on.")],
    namespace: Annotated[str, typer.Option(help="What is watched, and where data_store begins.")] = "default",
    prefix: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only keys that begin so.", show_default=False)
    ] = None,
    consumer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The name under which the cursor is kept; else the file's.", show_default=False
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Changes for one run, at most.")] = 20,
    concurrency: Annotated[int, typer.Option(help="Runs at the same time, at most.")] = 4,
    retries: Annotated[int, typer.Option(help="Further tries where a run fails, before the dead letters.")] = 3,
    first_wait: Annotated[
        float, typer.Option(metavar="SECONDS", help="Before the first of them; then twice as long.")
    ] = 0.5,
    initial: Annotated[bool, typer.Option("--initial", help="A new consumer begins with every key there is.")] = False,
    own_writes: Annotated[
        bool, typer.Option("--own-writes", help="Hand on what an agent of this name wrote as well.")
    ] = False,
    agent: Annotated[
        str | None, typer.Option(metavar="NAME", help="The agent's name; else the consumer's.", show_default=False)
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="The server; else REDIS_URL, else the embedded server.", show_default=False)
    ] = None,
    tools: cli_options.ToolsOption = None,
    modules: cli_options.ModulesOption = None,
    agents: cli_options.AgentsOption = None,
    env: cli_options.EnvOption = None,
    packages: cli_options.PackagesOption = None,
    permissions: cli_options.PermissionsOption = None,
    limits: cli_options.LimitsOption = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="When to end a run.")] = Limits().timeout_s,
    configure_server: Annotated[
        bool, typer.Option("--configure-server", help="Have the server send the events that watching needs.")
    ] = False,
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")] = False,
) -> None:
    """Run an agent on the changes of a namespace, until Ctrl-C: {"changes": [...]} is its input.

    A line on stderr for each run. Ctrl-C or SIGTERM: what runs is finished, the cursor is kept. A second Ctrl-C ends it at once.
    Exit code 0: it was told to end. 1: the store cannot be used, or the agent cannot be loaded. 2: called wrongly. 130: ended at
    once.
    """
    show = _as_json if json_lines else _as_line
    try:
        reacting = on_change(
            agent_file,
            user=user,
            namespace=namespace,
            prefix=prefix,
            consumer=consumer,
            batch=batch,
            concurrency=concurrency,
            retries=retries,
            first_wait=first_wait,
            initial=initial,
            own_writes=own_writes,
            agent=agent,
            url=url,
            **cli_options.read_given(
                tools=tools,
                modules=modules,
                agents=agents,
                env=env,
                packages=packages,
                permissions=permissions,
                limits=limits,
                timeout_s=timeout,
            ),
            configure_server=configure_server,
            on_output=to_stderr,
            on_event=show,
        )
        with _signals(reacting) as interrupted:
            reacting.run()
    except (errors.InvalidInput, InvalidInput) as error:
        leave(str(error), CALLED_WRONGLY)
    except errors.SandboxError as error:
        leave(explained(error), FAILED)
    except DataStoreError as error:
        leave(str(error), FAILED)
    if interrupted():
        leave("Ended at once: what was under way is done again by the next consumer of this name.", INTERRUPTED)


@contextmanager
def _signals(reacting: Consumer) -> Iterator[Callable[[], bool]]:
    """Have the first Ctrl-C or SIGTERM finish what runs, and the next end it; gives whether there was a next."""
    asked = 0

    def told(*_: Any) -> None:
        nonlocal asked
        asked += 1
        reacting.stop(now=asked > 1)
        if asked == 1:
            # Not from here: the signal may have come in the middle of another line.
            text = "Finishing what runs; once more to end it at once.\n"
            threading.Thread(target=to_stderr, args=(text,), daemon=True).start()

    before = {number: signal.signal(number, told) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked > 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _as_line(event: ConsumerEvent) -> None:
    to_stderr(f"{datetime.now():%H:%M:%S} {event.consumer}: {_say(event)}\n")


def _as_json(event: ConsumerEvent) -> None:
    write(sys.stdout, json.dumps(asdict(event), ensure_ascii=False) + "\n")


def _say(event: ConsumerEvent) -> str:
    what = _name(event.keys)
    if event.kind == "ran":
        return f"{what}: done in {event.seconds:.2f} s, run {event.run}"
    if event.kind == "failed":
        return f"{what}: try {event.attempt} failed: {event.error}"
    if event.kind == "dead letter":
        return f"{what}: put aside in 'dead-letter:{event.consumer}': {event.error}"
    if event.kind == "waiting":
        return f"{what}: not possible now, again in {event.wait_s:.1f} s: {event.error}"
    return {
        "watching": "watching",
        "standing by": "standing by, another process works under this name",
        "stopped": "stopped",
    }[event.kind]


def _name(keys: tuple[str | None, ...]) -> str:
    shown = ", ".join("(all keys)" if key is None else repr(key) for key in keys[:_KEYS_SHOWN])
    more = f" and {len(keys) - _KEYS_SHOWN} more" if len(keys) > _KEYS_SHOWN else ""
    return f"{len(keys)} {'change' if len(keys) == 1 else 'changes'} ({shown}{more})"
