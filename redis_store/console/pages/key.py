"""A key: its value as a tree, its info, and editing it over the version that was shown."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from redis_store.admin import AsyncAdmin
from redis_store.console import values
from redis_store.console.rendering import SentForm, asked, asked_number, form_of, forward, page
from redis_store.console.shared import console_of
from redis_store.errors import DataStoreError, InvalidInput, StoredDataError
from redis_store.types import MISSING, KeyInfo
from redis_store.values.quantities import parse_age


@dataclass(frozen=True, slots=True)
class Shown:
    """A key as a page shows it."""

    user: str
    namespace: str
    key: str
    text: bytes | None
    """The stored text; None for a missing key, and for a value that cannot be unpacked."""
    info: KeyInfo | None
    problem: str | None
    """Why the value cannot be read."""

    @property
    def where(self) -> dict[str, str]:
        """The query of the key's page."""
        return {"user": self.user, "namespace": self.namespace, "key": self.key}

    @property
    def version(self) -> str:
        """What tells the value that is shown from others, with the version that the store gave it, if any."""
        version = "" if self.info is None or self.info.version is None else str(self.info.version)
        return f"{version}.{'' if self.text is None else values.digest_of(self.text)}"


async def _read(admin: AsyncAdmin, user: str, namespace: str, key: str) -> Shown:
    store = admin.store(user, namespace).as_json_text()
    try:
        found = await store.get_many([key], info=True)
    except StoredDataError as error:
        return Shown(user, namespace, key, None, await store.info(key), str(error))
    text, info = found.get(key, (None, None))
    return Shown(user, namespace, key, text, info, None)


async def _asked_key(request: Request) -> Shown:
    names = asked(request, "user"), asked(request, "namespace"), asked(request, "key")
    return await _read(console_of(request).admin, *names)


async def key(request: Request) -> Response:
    """Show a key, or a part of a big value."""
    shown = await _asked_key(request)
    if shown.info is None:
        return page(
            request, "key.html", 404, shown=shown, part=None, not_json=None, path=[], metadata=None, can_edit=True
        )
    at, begin = request.query_params.get("at"), asked_number(request, "begin")
    part, not_json = None, None
    if shown.text is not None:
        try:
            # In a thread, as a value of many megabytes takes long.
            part = await asyncio.to_thread(values.part_of, shown.text, at, begin, shown.where)
        except values.NotJson as error:
            part, not_json = values.raw_part_of(shown.text, begin, shown.where), str(error)
        except (LookupError, TypeError):
            raise HTTPException(
                404, "The value has no such part: it may have changed. Look at the whole value."
            ) from None
    return page(
        request,
        "key.html",
        shown=shown,
        part=part,
        not_json=not_json,
        path=values.path_of(at) if part and not not_json else [],
        metadata=values.tree_of(shown.info.metadata) if shown.info.metadata else None,
        can_edit=_can_edit(shown),
    )


def _can_edit(shown: Shown) -> bool:
    return shown.text is None or len(shown.text) <= values.EDITED_BYTES


async def value(request: Request) -> Response:
    """Send the stored text of a key as a file, as it is."""
    shown = await _asked_key(request)
    if shown.text is None:
        raise HTTPException(404, shown.problem or "There is no such key.")
    headers = {"content-disposition": 'attachment; filename="value.json"'}
    return Response(shown.text, media_type="application/json", headers=headers)


async def edit(request: Request) -> Response:
    """Show the form that changes a value, or makes a new key."""
    console, user, name = console_of(request), asked(request, "user"), asked(request, "namespace")
    if console.settings.read_only:
        raise HTTPException(403, "The console was started with --read-only: start it without, to change data.")
    if not request.query_params.get("key"):
        return _edit_page(request, Shown(user, name, "", None, None, None), "", is_new=True)
    shown = await _read(console.admin, user, name, asked(request, "key"))
    if not _can_edit(shown):
        raise HTTPException(400, "The value is too big for a form: change it with redis-store set.")
    return _edit_page(request, shown, _for_people(shown.text), is_new=shown.info is None)


def _for_people(text: bytes | None) -> str:
    if text is None:
        return ""
    try:
        return values.indented(values.parsed(text))
    except (values.NotJson, ValueError):
        return text.decode(errors="backslashreplace")


def _edit_page(
    request: Request, shown: Shown, text: str, *, is_new: bool, problem: str | None = None, form: SentForm | None = None
) -> Response:
    return page(
        request,
        "edit.html",
        400 if problem else 200,
        shown=shown,
        text=text,
        is_new=is_new,
        problem=problem,
        version=form.typed("version") if form else shown.version,
        expiry=(form and form.typed("expiry")) or "keep",
        life=form.typed("life") if form else "",
    )


class _Changed(Exception):
    """The key holds something else than what was shown."""


async def save(request: Request) -> Response:
    """Store a value, provided that the key still has the one that was shown."""
    console, form = console_of(request), await form_of(request)
    admin = console.admin_of(request)
    user, given, is_new = form.name("user"), form.typed("value"), form.typed("new") == "1"
    name = form.typed("new_namespace") if is_new else form.name("namespace")
    key = form.typed("new_key") if is_new else form.name("key")
    try:
        text, life = values.stored_text(given), _life(form)
        await _store(admin, user, name, key, text, form.typed("version"))
    except _Changed:
        now = await _read(admin, user, name, key)
        theirs = _for_people(now.text)
        return page(
            request,
            "conflict.html",
            409,
            shown=now,
            mine=given,
            theirs=theirs,
            is_new=is_new,
            expiry=form.typed("expiry"),
            life=form.typed("life"),
        )
    except (ValueError, TypeError) as error:  # of the text, the expiry or a name
        if isinstance(error, DataStoreError) and not isinstance(error, InvalidInput):
            raise
        shown = Shown(user, name, key, None, None, None)
        return _edit_page(request, shown, given, is_new=is_new, problem=str(error), form=form)
    store = admin.store(user, name)
    if life is not None:
        await store.expire(key, life)
    elif form.typed("expiry") == "never":
        await store.persist(key)
    await admin.note("set", user=user, namespace=name, key=key, count=1)
    return forward("/key", user=user, namespace=name, key=key, done="saved")


def _life(form: SentForm) -> float | None:
    """Return the new time to live in seconds, if there is to be one."""
    if form.typed("expiry") != "after":
        return None
    return parse_age(form.typed("life")).total_seconds()


async def _store(admin: AsyncAdmin, user: str, namespace: str, key: str, text: bytes, version: str) -> None:
    """Store a text over the version that was shown. Raises `_Changed` if the key has another one."""
    store = admin.store(user, namespace).as_json_text()
    number, _, digest = version.partition(".")
    if not digest:
        if not await store.set_if_absent(key, text):
            raise _Changed
        return
    info = await store.info(key)
    if info is None or str(info.version or "") != number:
        raise _Changed

    def changed(there: object) -> bytes:
        # Called again if somebody writes meanwhile. The digest also tells of external writes, which change no version.
        if there is MISSING or not isinstance(there, bytes) or values.digest_of(there) != digest:
            raise _Changed
        return text

    await store.update(key, changed, MISSING)


routes = [
    Route("/key", key),
    Route("/value", value),
    Route("/edit", edit),
    Route("/do/save", save, methods=["POST"]),
]
