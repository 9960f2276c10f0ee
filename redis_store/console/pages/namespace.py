"""A namespace: its sorted keys in groups, a search in its values, and deleting, exporting and bringing back keys."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from functools import partial
from itertools import islice
from typing import IO

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from redis_store.admin import SearchHit
from redis_store.admin.aio import run_in
from redis_store.admin.changing import kept_keys
from redis_store.console.key_lists import KeyPage, crumbs_of, page_of, range_of
from redis_store.console.pages.user import LISTED_NAMES
from redis_store.console.rendering import asked, confirm, form_of, forward, maybe_asked, page, query_of, url
from redis_store.console.searches import Search
from redis_store.console.shared import Console, console_of
from redis_store.console.values import excerpt_of
from redis_store.namespace.scope import Scope
from redis_store.protocol.call import all_replies
from redis_store.types import KeyInfo
from redis_store.values.quantities import counted
from sandbox.masking import MASK, is_secret_name

KEYS_PER_PAGE = 1000
"""Keys and groups on one page."""

KEYS_PER_DELETION = 1000
"""Keys that are deleted in one step."""

EXPORT_IN_MEMORY_BYTES = 8 * 1024 * 1024
"""Size of an export that waits in memory for its browser, in bytes; a bigger one waits in a file."""

DOWNLOAD_BYTES = 256 * 1024
"""Size of the parts of a download, in bytes."""


async def namespace(request: Request) -> Response:
    """Show a page of keys, or what a search has found."""
    console, user, name = console_of(request), asked(request, "user"), asked(request, "namespace")
    query = request.query_params
    prefix, text, flat = maybe_asked(request, "prefix") or "", query.get("text", ""), query.get("flat") == "1"
    found: Search | None = None
    listed = await console.key_lists.latest(user, name)
    if text:
        found = await console.searches.latest(user, name, prefix, text)
        shown = KeyPage([], 0, 0, 0, None, None)
    else:
        shown = page_of(listed.keys, prefix, query.get("after"), KEYS_PER_PAGE, grouped=not flat)
    infos = await _infos(console, user, name, shown)
    low, high = range_of(listed.keys, prefix)
    return page(
        request,
        "namespace.html",
        user=user,
        namespace=name,
        prefix=prefix,
        crumbs_of_prefix=list(crumbs_of(prefix)),
        text=text,
        flat=flat,
        listed=listed,
        shown=shown,
        infos=infos,
        total=high - low,
        search=found,
        hits=_hits(found, text) if found else [],
        kept=query_of(request, "user", "namespace", "prefix", "text", "flat"),
        undoable=await run_in(console.admin, user, name, _undoable),
    )


def _hits(found: Search, text: str) -> list[tuple[str, str, str]]:
    return sorted((hit.key, hit.found_in, _excerpt(hit, text)) for hit in found.hits)


def _excerpt(hit: SearchHit, text: str) -> str:
    """Return what was found with secrets masked: all of a value whose key is named like a secret, as on the key's page."""
    is_secret = hit.found_in == "value" and is_secret_name(hit.key)
    return MASK if is_secret else excerpt_of(hit.excerpt, text)


async def _infos(console: Console, user: str, namespace: str, shown: KeyPage) -> dict[str, KeyInfo]:
    keys = [row for row in shown.rows if isinstance(row, str)]
    return await console.admin.store(user, namespace).infos(keys) if keys else {}


async def _undoable(scope: Scope) -> tuple[int, int]:
    """Return how many keys the last clear keeps, and for how many ms."""
    data = kept_keys(scope.user, scope.name).data
    count, left_ms = await all_replies(("HLEN", data), ("PTTL", data))
    return (count, left_ms) if isinstance(count, int) and isinstance(left_ms, int) else (0, 0)


async def delete(request: Request) -> Response:
    """Delete the keys that were selected."""
    form = await form_of(request)
    user, name, keys = form.name("user"), form.name("namespace"), form.names("key")
    prefix = form.maybe_name("prefix")
    if not keys:
        return _after(user, name, prefix, "nothing", 0)
    if not form.typed("sure"):
        return confirm(
            request,
            f"Delete {counted(len(keys), 'key')} of namespace {name!r}?",
            means="It cannot be undone.",
            button="Delete",
            back=url("/namespace", user=user, namespace=name, prefix=prefix),
            fields={"user": user, "namespace": name, "prefix": prefix, "key": keys},
            listed=keys[:LISTED_NAMES],
            more=max(0, len(keys) - LISTED_NAMES),
        )
    count = await _delete(request, user, name, keys)
    return _after(user, name, prefix, "deleted" if count else "nothing", count)


async def delete_subtree(request: Request) -> Response:
    """Delete all keys with a prefix."""
    console, form = console_of(request), await form_of(request)
    user, name, prefix = form.name("user"), form.name("namespace"), form.name("prefix")
    if not form.typed("sure"):
        keys = (await console.key_lists.latest(user, name)).keys
        low, high = range_of(keys, prefix)
        return confirm(
            request,
            f"Delete {counted(high - low, 'key')} of namespace {name!r} that begin with {prefix!r}?",
            means="It cannot be undone: export them first, to keep them.",
            button="Delete",
            back=url("/namespace", user=user, namespace=name, prefix=prefix),
            fields={"user": user, "namespace": name, "prefix": prefix},
            listed=keys[low : min(high, low + LISTED_NAMES)],
            more=max(0, high - low - LISTED_NAMES),
        )
    keys = [key async for key in console.admin.store(user, name).iter_keys(prefix)]
    count = await _delete(request, user, name, keys, prefix)
    return _after(user, name, None, "deleted" if count else "nothing", count)


async def _delete(request: Request, user: str, namespace: str, keys: list[str], prefix: str | None = None) -> int:
    """Delete keys in steps, with one entry in the log of changes for all; or two, the first before the first step."""
    console = console_of(request)
    admin, count, outcome = console.admin_of(request), 0, "failed"
    what = "delete" if prefix is None else "delete --prefix"
    note = partial(admin.note, what, user=user, namespace=namespace, key=prefix)
    if len(keys) > KEYS_PER_DELETION:
        await note("begun")
    left = iter(dict.fromkeys(keys))
    try:
        while part := list(islice(left, KEYS_PER_DELETION)):
            count += await admin.store(user, namespace).delete_many(part)
            console.key_lists.forget(user, namespace, part)
        outcome = "done"
    finally:
        await note(outcome, count=count)
    return count


async def clear(request: Request) -> Response:
    """Delete all keys of a namespace. It can be undone for a day."""
    console, form = console_of(request), await form_of(request)
    user, name = form.name("user"), form.name("namespace")
    if not form.typed("sure"):
        count = await console.admin.store(user, name).count()
        return confirm(
            request,
            f"Clear namespace {name!r} with {counted(count, 'key')}?",
            means="It can be undone for a day. Only the last clear of a namespace is kept.",
            button="Clear",
            back=url("/namespace", user=user, namespace=name),
            fields={"user": user, "namespace": name},
        )
    count = await console.admin_of(request).clear(user, name)
    console.key_lists.forget(user, name)
    return _after(user, name, None, "cleared" if count else "nothing", count)


async def undo(request: Request) -> Response:
    """Bring back what the last clear has deleted."""
    console, form = console_of(request), await form_of(request)
    user, name = form.name("user"), form.name("namespace")
    done = await console.admin_of(request).undo_clear(user, name)
    return _after(user, name, None, "undone" if done.keys else "nothing-back", done.written)


def _after(user: str, namespace: str, prefix: str | None, done: str, count: int) -> Response:
    return forward("/namespace", user=user, namespace=namespace, prefix=prefix, done=done, count=count)


async def export(request: Request) -> Response:
    """Send the keys of a namespace, or those with a prefix, as a file that `redis-store import` reads."""
    console, user, name = console_of(request), asked(request, "user"), asked(request, "namespace")
    file = tempfile.SpooledTemporaryFile(EXPORT_IN_MEMORY_BYTES)  # noqa: SIM115  # closed when it is sent
    try:
        await console.admin.export(file, user, name, prefix=maybe_asked(request, "prefix"))
    except BaseException:
        file.close()
        raise
    file.seek(0)
    headers = {"content-disposition": 'attachment; filename="export.jsonl"'}
    return StreamingResponse(_parts(file), headers=headers, media_type="application/jsonl")


async def _parts(file: IO[bytes]) -> AsyncIterator[bytes]:
    with file:
        while part := file.read(DOWNLOAD_BYTES):
            yield part


routes = [
    Route("/namespace", namespace),
    Route("/export", export),
    Route("/do/delete", delete, methods=["POST"]),
    Route("/do/delete-subtree", delete_subtree, methods=["POST"]),
    Route("/do/clear", clear, methods=["POST"]),
    Route("/do/undo", undo, methods=["POST"]),
]
