"""The command `sandbox watch`."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Unpack

import typer

from redis_store.cli.streams import Output, stdout_for_results, takes_no_more, write_to
from redis_store.options import shows
from redis_store.values.printable import json_text, message, quoted
from sandbox.cli.options import AgentFile, GivenOptions, read_given
from sandbox.cli.output import (
    INTERRUPTED,
    finish_output,
    leave,
    leaving_on_errors,
    library_warnings,
    pass_on,
    say,
    say_printable,
)
from sandbox.consumers.batches import ConsumerEvent
from sandbox.consumers.consumer import Consumer, on_change
from sandbox.result import lines_above

_KEYS_SHOWN = 3


@shows(GivenOptions)
def watch(
    agent_file: AgentFile,
    user: Annotated[
        str, typer.Option(metavar="NAME", help="The user whose data is watched and that the agent works for.")
    ],
    namespace: Annotated[
        str, typer.Option(metavar="NAME", help="The namespace to watch. The agent's data_store starts in it.")
    ] = "default",
    prefix: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Watch only keys with this prefix.", show_default=False)
    ] = None,
    consumer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The name under which the cursor is kept. Defaults to the agent's file name without .py.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[int, typer.Option(metavar="COUNT", help="Maximum number of changes per run.")] = 20,
    concurrency: Annotated[int, typer.Option(metavar="COUNT", help="Maximum number of concurrent runs.")] = 4,
    retries: Annotated[
        int, typer.Option(metavar="COUNT", help="Retries of a failed run before its changes become dead letters.")
    ] = 3,
    first_wait: Annotated[
        float, typer.Option(metavar="SECONDS", help="Wait before the first retry; it doubles for each further retry.")
    ] = 0.5,
    initial: Annotated[bool, typer.Option("--initial", help="Start a new consumer with every existing key.")] = False,
    own_writes: Annotated[
        bool,
        typer.Option("--own-writes", help="Include changes that the agent itself wrote, or an agent that it called."),
    ] = False,
    agent: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The agent's name. Defaults to the consumer's name.", show_default=False),
    ] = None,
    configure_server: Annotated[
        bool, typer.Option("--configure-server", help="Enable the keyspace events that watching needs, on the server.")
    ] = False,
    json_lines: Annotated[
        bool, typer.Option("--json", help="Write each event to stdout, as a JSON object on a line of its own.")
    ] = False,
    **given: Unpack[GivenOptions],
) -> None:
    """Run an agent on the changes of a namespace.

    The agent's input is {"changes": [...]}. Each run is reported in a line on stderr. A failed
    one is preceded by the agent's traceback. Warnings of the library, of a server that evicts for example, go there too.

    Ctrl-C or SIGTERM finishes the runs under way and saves the cursor. A second Ctrl-C or SIGTERM ends them at once.

    \b
    Exit codes:
      0    stopped by Ctrl-C or SIGTERM
      1    the store cannot be used, or the agent cannot be loaded
      2    invalid usage: an option or the agent's path
      130  stopped at once by a second Ctrl-C or SIGTERM
    """
    with stdout_for_results() as out, library_warnings(), leaving_on_errors():
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
            configure_server=configure_server,
            on_output=pass_on,
            on_event=partial(_as_json, out) if json_lines else _as_line,
            **read_given(given),
        )
        with _signals(reacting) as interrupted:
            reacting.run()
    if interrupted():
        leave("Ended at once: the next consumer of this name repeats the runs that were under way.", INTERRUPTED)


@contextmanager
def _signals(reacting: Consumer) -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C or SIGTERM finish the runs under way, and the second end them; yield whether a second came."""
    asked = 0

    def told(*_: Any) -> None:
        nonlocal asked
        asked += 1
        reacting.stop(now=asked > 1)
        if asked == 1:
            # In a thread, because the signal may have interrupted the writing of another line.
            text = "Finishing the runs under way; press Ctrl-C again to end them at once."
            threading.Thread(target=say, args=(text,), daemon=True).start()

    before = {number: signal.signal(number, told) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked > 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _as_line(event: ConsumerEvent) -> None:
    lines = lines_above(event.error or "", event.traceback) if event.kind == "failed" and event.traceback else ""
    said = message(f"{datetime.now():%H:%M:%S} {event.consumer}: {_say(event)}")
    say_printable((f"{quoted(lines)}\n" if lines else "") + said)


def _as_json(out: Output, event: ConsumerEvent) -> None:
    finish_output()
    if takes_no_more(out):
        return
    with suppress(OSError):  # the disk is full
        write_to(out, json_text(asdict(event)) + "\n")
    if takes_no_more(out):
        say("Stdout takes no more, so further events are not written. The consumer continues.")


def _say(event: ConsumerEvent) -> str:
    what = _name(event.keys)
    if event.kind == "ran":
        return f"{what}: done in {event.seconds:.2f} s, run {event.run}"
    if event.kind == "failed":
        return f"{what}: try {event.attempt} failed: {event.error}"
    if event.kind == "dead letter":
        return f"{what}: stored as a dead letter in 'dead-letter:{event.consumer}': {event.error}"
    if event.kind == "waiting":
        return f"{what}: waiting, next try in {event.wait_s:.1f} s: {event.error}"
    return {
        "watching": "watching",
        "standing by": "standing by; another process is the consumer of this name",
        "stopped": "stopped",
    }[event.kind]


def _name(keys: tuple[str | None, ...]) -> str:
    shown = ", ".join("(all keys)" if key is None else repr(key) for key in keys[:_KEYS_SHOWN])
    more = f" and {len(keys) - _KEYS_SHOWN} more" if len(keys) > _KEYS_SHOWN else ""
    return f"{len(keys)} {'change' if len(keys) == 1 else 'changes'} ({shown}{more})"
