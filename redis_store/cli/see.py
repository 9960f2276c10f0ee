"""Commands that show what there is, and that change nothing but locks and dead letters."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redis_store.cli.session import (
    FOUND,
    NOT_THERE,
    NamespaceOption,
    Session,
    StdinOption,
    UserOption,
    fields_of,
    operator_command,
    plain,
    since,
)
from redis_store.cli.streams import stdout_failed
from redis_store.cli.tables import Column, cell
from redis_store.errors import StoredDataError, StoreUnavailable
from redis_store.values.printable import json_text, quoted
from redis_store.values.quantities import ago, counted, size

if TYPE_CHECKING:
    from redis_store.admin import ChangeRecord, HeldLock
    from redis_store.types import Change
    from redis_store.watch.sync import Watch

DEFAULT = "default"

PING_S = 1.0
"""Interval at which `tail` asks a silent server whether it is there, in seconds."""

AWAY_S = 15.0
"""Time for which a server may be away before `tail` ends, in seconds."""

app = typer.Typer()
locks_app = typer.Typer(help="Show locks and semaphores: holder, age, waiters.", rich_markup_mode=None)
letters_app = typer.Typer(help="Show the changes that agents could not process.", rich_markup_mode=None)
cache_app = typer.Typer(help="Show the values that are being computed, and hit rates.", rich_markup_mode=None)
app.add_typer(locks_app, name="locks")
app.add_typer(letters_app, name="dead-letters")
app.add_typer(cache_app, name="cache")

_By = Annotated[str, typer.Option(metavar="name|memory|keys|last-write", help="The order.")]
_OlderThan = Annotated[
    str | None, typer.Option(metavar="AGE", help="Only those not written for so long, such as 30d.", show_default=False)
]
_Prefix = Annotated[str | None, typer.Option(help="Only names that begin with this text.", show_default=False)]
_Since = Annotated[
    str | None,
    typer.Option("--since", metavar="AGE", help="Only those of the last time, such as 10m.", show_default=False),
]
_Keys = Annotated[list[str] | None, typer.Argument(metavar="KEY", show_default=False)]
_Consumer = Annotated[str | None, typer.Option(help="The consumer.", show_default=False)]
_OfAgent = Annotated[
    str | None,
    typer.Option("--agent", help="The agent whose own name it is, with limited namespaces.", show_default=False),
]


# Users, namespaces and keys


@operator_command(app, "users")
def users(session: Session, by: _By = "name", older_than: _OlderThan = None) -> None:
    """List the users: namespaces, keys, memory and last write of each."""
    found = session.admin.list_users(by, since(older_than, "--older-than"))  # type: ignore[arg-type] # it checks the order
    session.show(
        found,
        (
            Column("USER"),
            Column("NAMESPACES", True),
            Column("KEYS", True),
            Column("MEMORY", True),
            Column("LAST WRITE"),
        ),
        lambda one: (one.user, one.namespaces, one.keys, size(one.bytes), one.last_write),
    )
    session.say(f"{counted(len(found), 'user')}.")


@operator_command(app, "namespaces")
def namespaces(
    session: Session,
    user: UserOption = None,
    prefix: _Prefix = None,
    by: _By = "name",
    older_than: _OlderThan = None,
) -> None:
    """List the namespaces that hold data, of one user or of all."""
    found = session.admin.list_namespaces(user, prefix, by, since(older_than, "--older-than"))  # type: ignore[arg-type]
    session.show(
        found,
        (Column("USER"), Column("NAMESPACE"), Column("KEYS", True), Column("MEMORY", True), Column("LAST WRITE")),
        lambda one: (one.user, one.namespace, one.keys, size(one.bytes), one.last_write),
    )
    session.say(f"{counted(len(found), 'namespace')}.")
    if user is not None and prefix is None and older_than is None and not found:
        session.missing(f"The user {user!r} has no data.")


@operator_command(app, "keys")
def keys(
    session: Session,
    user: UserOption = None,
    namespace: NamespaceOption = None,
    prefix: _Prefix = None,
    stdin: StdinOption = False,
) -> None:
    """List the keys of a namespace, all and sorted; before them their number, on stderr."""
    missing = 0
    for place in _places(session, user, namespace, stdin):
        found = session.admin.store(**place).list_keys(prefix)
        session.say(f"{counted(len(found), 'key')} in {place['namespace']!r} of {place['user']!r}.")
        if not found and prefix is None:
            missing += 1
            if why := _why_empty(session, place):
                session.complain(why)
        for key in session.while_read(found):
            if session.as_json:
                session.json_line({**place, "key": key})
            else:
                session.line(key)
    if missing:
        raise typer.Exit(NOT_THERE)


@operator_command(app, "get")
def get(
    session: Session,
    keys: _Keys = None,
    user: UserOption = None,
    namespace: NamespaceOption = None,
    stdin: StdinOption = False,
) -> None:
    """Print the values of keys, as JSON."""
    from redis_store.types import MISSING

    ends = _Ends(session)
    for place, key in _named_keys(session, keys, user, namespace, stdin):
        try:
            value = session.admin.store(**place).get(key, MISSING)
        except StoredDataError as error:
            ends.broken(error)
            continue
        if value is MISSING:
            ends.missing(place, key)
        elif session.as_json:
            session.json_line({**place, "key": key, "value": value})
        else:
            session.text(json_text(value, indent=2))
    ends.exit()


@operator_command(app, "info")
def info(
    session: Session,
    keys: _Keys = None,
    user: UserOption = None,
    namespace: NamespaceOption = None,
    stdin: StdinOption = False,
) -> None:
    """Show what is kept beside values: times, writers, metadata, size, expiry."""
    ends = _Ends(session)
    for place, some in _batches(_named_keys(session, keys, user, namespace, stdin)):
        found = session.admin.store(**place).infos(some)
        for key in some:
            if key not in found:
                ends.missing(place, key)
            elif session.as_json:
                session.json_line({**place, **plain(found[key])})
            else:
                facts = fields_of(found[key])
                _show_facts(session, {**place, **facts, "version": str(facts["version"] or "-")})  # it is no amount
    ends.exit()


@operator_command(app, "search")
def search(
    session: Session,
    text: Annotated[str, typer.Argument(metavar="TEXT", show_default=False)],
    user: UserOption = None,
    namespace: NamespaceOption = None,
    keys_only: Annotated[bool, typer.Option("--keys", help="Search the keys only, which is faster.")] = False,
    ignore_case: Annotated[
        bool, typer.Option("--ignore-case", "-i", help="Upper and lower case are the same.")
    ] = False,
) -> None:
    """Find a text in keys and values, of one user or of all. It is literal, no pattern."""
    hits = session.admin.search(text, user, namespace, keys_only=keys_only, ignore_case=ignore_case)
    count = 0
    for hit in session.while_read(hits):
        count += 1
        if session.as_json:
            session.json_line(hit)
        else:
            found = "" if hit.found_in == "key" else f": {hit.excerpt}"
            session.line(f"{hit.user}  {hit.namespace}  {hit.key}{found}")
    session.say(f"{counted(count, 'key')} found.")
    if not count:
        raise typer.Exit(NOT_THERE)


# Changes


@operator_command(app, "tail")
def tail(
    session: Session,
    user: UserOption = None,
    namespace: NamespaceOption = None,
    since_: _Since = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="With --since: go on until Ctrl-C.")] = False,
) -> None:
    """Show the changes of all users or of one as they come, until Ctrl-C; with --since, those of the last time."""
    began = since(since_, "--since")
    if began is None and user is not None:
        _follow_user(session, user, namespace)
    elif began is None or follow:
        _follow_all(session, user, namespace, began)
    else:
        changes = session.admin.list_changes(began, user, namespace)
        session.show(
            changes,
            tuple(map(Column, ("TIME", "USER", "NAMESPACE", "OP", "KEY", "BY", "RUN"))),
            lambda one: (_clock(one.at), one.user, one.namespace, one.op, one.key, one.agent, one.run),
        )
        if any(one.source == "info" for one in changes):
            session.say("Some namespaces have no change log: of these, only the last write of each key is known.")


def _follow_all(session: Session, user: str | None, namespace: str | None, began: datetime | None) -> None:
    """Show changes as operators see them: of any number of users, without values."""
    session.follows = True
    with session.admin.follow_changes(user, namespace, began) as changes:
        session.say(_WAITING)
        for change in session.while_read(changes):
            if session.as_json:
                session.json_line(change)
            else:
                session.line(_change_line(change.at.astimezone(), f"{change.user}  {change.namespace}", change))
            sys.stdout.flush()


def _follow_user(session: Session, user: str, namespace: str | None) -> None:
    """Show changes as a watcher of the user sees them, external writes and values included."""
    store = session.admin.store(user, namespace or DEFAULT)
    session.follows = True
    with store.watch_all() if namespace is None else store.watch() as watch:
        session.say(_WAITING)
        for change in session.while_read(_while_reached(session, watch)):
            _show_change(session, user, change)


def _while_reached(session: Session, watch: Watch) -> Iterator[Change]:
    """Yield changes until the server has been away for a while: a watch would wait for it for ever."""
    away_since: float | None = None
    while True:
        change = watch.next_change(PING_S)
        if change is not None:
            yield change
            continue
        try:
            session.admin.client.ping()
            away_since = None
        except StoreUnavailable:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > AWAY_S:
                raise


def _show_change(session: Session, user: str, change: Change) -> None:
    if session.as_json:
        facts = {name: getattr(change, name) for name in ("namespace", "key", "op", "value", "agent", "run", "source")}
        session.json_line({"user": user, **facts, "cursor": change.cursor})
    else:
        session.line(_change_line(datetime.now(), change.namespace, change))
    sys.stdout.flush()


def _change_line(at: datetime, where: str, change: Change | ChangeRecord) -> str:
    by = f"  by {change.agent}" if change.agent else ""
    return f"{at:%H:%M:%S}  {where}  {change.op}  {change.key or ''}{by}"


_WAITING = "Waiting for changes (press Ctrl-C to quit) ..."


@operator_command(app, "consumers")
def consumers(session: Session, user: UserOption = None) -> None:
    """Show how far consumers are behind, and which of them a process works as."""
    found = session.admin.list_consumers(user)
    session.show(
        found,
        (
            *map(Column, ("USER", "CONSUMER", "NAMESPACE")),
            Column("BEHIND", True),
            Column("DONE UNTIL"),
            Column("HELD"),
            Column("BY"),
        ),
        lambda one: (one.user, one.consumer, one.namespace, one.behind, one.at, one.is_held, one.holder),
    )
    session.say(f"{counted(len(found), 'cursor')}.")


# Locks


@operator_command(locks_app, None)
def locks(session: Session, user: UserOption = None) -> None:
    """Show the locks and semaphores that are held: holder, age, waiters."""
    found = session.admin.list_locks(user)
    session.show(
        found,
        (
            *map(Column, ("USER", "KIND", "NAME", "HELD", "BY", "SINCE", "EXPIRES")),
            Column("WAITERS", True),
            Column("OWN NAME OF"),
        ),
        lambda one: (
            one.user, one.kind, one.name, f"{one.held} of {cell(one.slots)}", one.holder, one.since, one.expires_at,
            one.waiters, one.agent,
        ),
    )  # fmt: skip
    session.say(f"{counted(len(found), 'lock')}.")


@operator_command(locks_app, "release", changes=True)
def locks_release(
    session: Session,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", show_default=False)] = None,
    user: UserOption = None,
    agent: _OfAgent = None,
    stdin: StdinOption = False,
) -> None:
    """Take locks from their holders, for the next waiters. A holder finds out when it renews the lock."""
    chosen = list(_named(session, {"user": user, "agent": agent}, "name", names, stdin))
    held = {
        (one.user, one.name, one.agent): one
        for owner in dict.fromkeys(each["user"] for each in chosen)
        for one in session.admin.list_locks(owner)
        if one.kind == "lock" and one.held
    }
    taken = [one for each in chosen if (one := held.get((each["user"], each["name"], each.get("agent")))) is not None]
    if taken:
        session.confirm("Take these locks from their holders?", map(_described, taken))
    missing = 0
    for each in chosen:
        if not session.admin.release_lock(each["user"], each["name"], each.get("agent")):
            session.complain(f"Nobody holds the lock {each['name']!r} of {each['user']!r}.")
            missing += 1
    session.say(f"{counted(len(chosen) - missing, 'lock')} released.")
    if missing:
        raise typer.Exit(NOT_THERE)


def _described(one: HeldLock) -> str:
    since = ago(one.since) if one.since else "an unknown time"
    return f"{one.user}  {one.name}: held by {one.holder or one.owner} since {since}, {one.waiters} waiting"


# Dead letters


@operator_command(letters_app, None)
def dead_letters(session: Session, user: UserOption = None, consumer: _Consumer = None) -> None:
    """List the changes that agents could not process, with the error of each."""
    count = session.show(
        session.admin.iter_dead_letters(user, consumer),
        tuple(map(Column, ("USER", "CONSUMER", "ID", "STORED", "OP", "ERROR"))),
        lambda one: (one.user, one.consumer, one.id, one.at, one.op, f"{one.error_type}: {one.error}"[:100]),
    )
    session.say(f"{counted(count, 'dead letter')}.")


@operator_command(letters_app, "show")
def dead_letters_show(
    session: Session,
    id: Annotated[str, typer.Argument(metavar="ID", show_default=False)],  # noqa: A002
    user: UserOption = None,
    consumer: _Consumer = None,
) -> None:
    """Show a dead letter with the error's traceback, quoted."""
    for one in session.admin.iter_dead_letters(_needed(session, user), consumer):
        if one.id == id:
            if session.as_json:
                session.json_line(one)
            else:
                facts = fields_of(one)
                trace = facts.pop("traceback")
                _show_facts(session, facts)
                session.text(quoted(trace or ""))
            return
    session.missing(f"There is no dead letter {id!r} of user {user!r}: see `redis-store dead-letters`.")


@operator_command(letters_app, "retry", changes=True)
def dead_letters_retry(
    session: Session,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", show_default=False)] = None,
    user: UserOption = None,
    consumer: _Consumer = None,
    stdin: StdinOption = False,
) -> None:
    """Write the changes of dead letters once more, so that the consumer gets them, and delete the dead letters."""
    why = {
        "gone": "its key was deleted since",
        "no value": "it was no write",
        "not there": "there is no such dead letter",
    }
    kept = done = 0
    for letter in _chosen_letters(session, ids, user, consumer, stdin, "Write these changes again?"):
        outcome = session.admin.retry_dead_letter(*letter)
        if outcome == "retried":
            done += 1
        else:
            kept += 1
            session.complain(f"{letter[2]!r} was not retried: {why[outcome]}.")
        session.go_on = (
            f"{counted(done, 'dead letter')} or one more retried. To go on with the others, run the command again."
        )
    session.say(f"{counted(done, 'dead letter')} retried.")
    if kept:
        raise typer.Exit(NOT_THERE)


@operator_command(letters_app, "drop", changes=True)
def dead_letters_drop(
    session: Session,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", show_default=False)] = None,
    user: UserOption = None,
    consumer: _Consumer = None,
    stdin: StdinOption = False,
) -> None:
    """Delete dead letters."""
    missing = done = 0
    for letter in _chosen_letters(session, ids, user, consumer, stdin, "Delete these dead letters?"):
        if session.admin.drop_dead_letter(*letter):
            done += 1
        else:
            missing += 1
            session.complain(f"There is no dead letter {letter[2]!r}.")
        session.go_on = (
            f"{counted(done, 'dead letter')} or one more deleted. To go on with the others, run the command again."
        )
    session.say(f"{counted(done, 'dead letter')} deleted.")
    if missing:
        raise typer.Exit(NOT_THERE)


def _chosen_letters(
    session: Session, ids: list[str] | None, user: str | None, consumer: str | None, stdin: bool, question: str
) -> list[tuple[str, str, str]]:
    """Return user, consumer and id of the dead letters that a command names, once the operator has agreed."""
    named = _named(session, {"user": user, "consumer": consumer}, "id", ids, stdin, ("user", "consumer", "id"))
    chosen = [(each["user"], each["consumer"], each["id"]) for each in named]
    session.confirm(question, (f"{who}  {what}  {which}" for who, what, which in chosen))
    return chosen


# The cache and the server


@operator_command(cache_app, None)
def cache(session: Session, user: UserOption = None) -> None:
    """Show the values that are being computed or have failed in the last seconds, and the hit rates of namespaces."""
    found = session.admin.list_computations(user)
    session.show(
        found,
        tuple(map(Column, ("USER", "NAMESPACE", "KEY", "STATE", "CLAIM ENDS", "ERROR"))),
        lambda one: (
            one.user, one.namespace, one.key, "failed" if one.failed_at else "computing", one.expires_at, one.error
        ),
    )  # fmt: skip
    rates = session.admin.list_cache_rates(user)
    if session.as_json:
        for rate in rates:
            session.json_line({**plain(rate), "rate": rate.rate})
    else:
        if found and rates:
            session.text("")
        session.show(
            rates,
            (*map(Column, ("USER", "NAMESPACE")), *(Column(name, True) for name in ("HITS", "COMPUTATIONS", "RATE"))),
            lambda one: (one.user, one.namespace, one.hits, one.computations, f"{one.rate:.1%}"),
        )
    for stats in session.admin.server_stats():
        session.say(f"{len(found):,} under way or failed; {stats.hit_ratio:.1%} of the server's reads find something.")


@operator_command(cache_app, "tags")
def cache_tags(session: Session, user: UserOption = None) -> None:
    """List the tags of cached values, the biggest first."""
    found = session.admin.list_tags(user)
    session.show(
        found,
        (*map(Column, ("USER", "TAG")), Column("VALUES", True), Column("OWN NAME OF")),
        lambda one: (one.user, one.tag, one.values, one.agent),
    )
    session.say(f"{counted(len(found), 'tag')}.")


@operator_command(app, "stats")
def stats(
    session: Session,
    watch: Annotated[bool, typer.Option("--watch", help="Again each second, until Ctrl-C.")] = False,
    prometheus: Annotated[bool, typer.Option("--prometheus", help="In the text format of Prometheus.")] = False,
) -> None:
    """Show what the server counts: memory, clients, commands, hits, evictions."""
    session.follows = watch
    while True:
        for number, one in enumerate(session.admin.server_stats()):
            if prometheus:
                session.text("\n".join(_prometheus(fields_of(one), number)))
            elif session.as_json:
                session.json_line({**plain(one), "hit_ratio": one.hit_ratio})
            else:
                facts = {**fields_of(one), "hit_ratio": f"{one.hit_ratio:.1%}"}
                for name in ("memory_bytes", "max_memory_bytes", "received_bytes", "sent_bytes"):
                    facts[name] = size(facts[name])
                _show_facts(session, facts)
        sys.stdout.flush()
        if not watch or stdout_failed():
            return
        time.sleep(1)
        if not (session.as_json or prometheus):
            session.text("")


_GAUGES = {
    "uptime_s",
    "clients",
    "blocked_clients",
    "memory_bytes",
    "max_memory_bytes",
    "redis_keys",
    "commands_per_s",
    "saves",
}
"""The facts that go up and down; the others are counters."""


def _prometheus(facts: dict[str, Any], number: int) -> Iterator[str]:
    for name, fact in facts.items():
        if isinstance(fact, int):
            metric = f"redis_store_{name}" + ("" if name in _GAUGES else "_total")
            if not number:
                yield f"# TYPE {metric} {'gauge' if name in _GAUGES else 'counter'}"
            yield f'{metric}{{server="{number}",role="{facts["role"]}"}} {int(fact)}'


# The log of operators' changes


@operator_command(app, "audit")
def audit(
    session: Session,
    since_: _Since = None,
    user: UserOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Show the changes that operators made: when, who, what, how many."""
    found = (
        entry
        for entry in session.admin.iter_audit(since(since_, "--since"))
        if user in (None, entry.user) and namespace in (None, entry.namespace)
    )
    session.show(
        found,
        (*map(Column, ("TIME", "BY", "WHAT", "OUTCOME", "USER", "NAMESPACE", "KEY")), Column("COUNT", True)),
        lambda one: (
            _clock(one.at), one.by, one.what, one.outcome, one.user, one.namespace, one.key, one.count
        ),
    )  # fmt: skip


# Names


class _Ends:
    """What a command over several keys could not show, and its exit code."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._code = 0
        self._empty: tuple[dict[str, str], str] = ({}, "")

    def missing(self, place: dict[str, str], key: str) -> None:
        self._code = self._code or NOT_THERE
        if place != self._empty[0]:
            self._empty = place, _why_empty(self._session, place)
        text = f"There is no key {key!r} in namespace {place['namespace']!r} of {place['user']!r}."
        self._session.complain(f"{text} {self._empty[1]}".rstrip())

    def broken(self, error: StoredDataError) -> None:
        self._code = FOUND
        self._session.complain(f"redis-store: {error}")

    def exit(self) -> None:
        if self._code:
            raise typer.Exit(self._code)


def _why_empty(session: Session, place: dict[str, str]) -> str:
    """Say what is wrong with the name of a namespace that holds nothing; nothing if it holds data."""
    store = session.admin.store(**place)
    if len(store):
        return ""
    names = store.list_namespaces()
    if not names:
        return f"The user {place['user']!r} has no data: see `redis-store users`."
    some = ", ".join(map(repr, sorted(names)[:_NAMED_AT_MOST])) + (", ..." if len(names) > _NAMED_AT_MOST else "")
    return f"That namespace holds no data. The user has {some}: name one with --namespace."


_NAMED_AT_MOST = 3


def _needed(session: Session, user: str | None) -> str:
    return next(session.names({"user": user}, ("user",), False))["user"]


def _places(session: Session, user: str | None, namespace: str | None, stdin: bool) -> Iterator[dict[str, str]]:
    """Yield the namespaces that a command names, as arguments of `Admin.store`."""
    for place in session.names({"user": user, "namespace": namespace}, ("user",), stdin):
        yield _place(place)


def _named_keys(
    session: Session, keys: list[str] | None, user: str | None, namespace: str | None, stdin: bool
) -> Iterator[tuple[dict[str, str], str]]:
    """Yield the keys that a command names, each with its namespace."""
    for names in _named(session, {"user": user, "namespace": namespace}, "key", keys, stdin):
        yield _place(names), names["key"]


def _place(names: dict[str, str]) -> dict[str, str]:
    return {"user": names["user"], "namespace": names.get("namespace", DEFAULT)}


def _named(
    session: Session,
    given: dict[str, str | None],
    what: str,
    arguments: list[str] | None,
    stdin: bool,
    needed: tuple[str, ...] = (),
) -> Iterator[dict[str, str]]:
    """Yield what a command names, `what` by its arguments and the rest by options, or all of it on stdin."""
    if arguments and stdin:
        session.wrong_usage(f"redis-store: Pass either {what.upper()}s or --stdin, not both.")
    for argument in arguments or (None,):
        yield from session.names({**given, what: argument}, needed or ("user", what), stdin)


def _batches(
    named: Iterator[tuple[dict[str, str], str]], most: int = 200
) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Yield keys of one namespace together, as they follow one another."""
    where: dict[str, str] = {}
    some: list[str] = []
    for place, key in named:
        if some and (place != where or len(some) == most):
            yield where, some
            some = []
        where = place
        some.append(key)
    if some:
        yield where, some


def _show_facts(session: Session, facts: dict[str, Any]) -> None:
    """Print facts, one in a line."""
    width = max(map(len, facts)) + 1
    for name, fact in facts.items():
        shown = json_text(fact) if isinstance(fact, dict) else cell(fact)
        session.text(f"{name.replace('_', ' '):<{width}} {shown}")


def _clock(at: Any) -> str:
    return str(at.strftime("%Y-%m-%d %H:%M:%SZ"))
