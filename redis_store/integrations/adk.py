"""For Google ADK: a session service whose sessions, events and states are values of one user of the store."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from typing import Any, cast
from uuid import uuid4

from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events.event import Event
from google.adk.sessions import BaseSessionService, Session, State
from google.adk.sessions.base_session_service import GetSessionConfig, ListSessionsResponse
from pydantic_core import PydanticSerializationError, to_jsonable_python

from redis_store import AsyncDataStore, AsyncTransaction, fit_name
from redis_store.integrations.stores import async_store
from redis_store.namespace.keys import MAX_NAMESPACE_BYTES

logger = logging.getLogger("redis_store")

ADK_USER = "adk"
"""Default user of the store: the sessions of all users of ADK belong to it."""

EVENTS_READ = 1000
"""Maximum number of events that one request reads."""

_APP_STATE = "app"


class StoreSessionService(BaseSessionService):
    """Sessions of ADK, with the states of apps and users. An asynchronous context manager.

    Takes an `AsyncDataStore`, or a url as `connect_async` does; `close` closes only a store of a url. The users of ADK are no
    users of the store: all belong to the store's one user, so that an event and the states that it changes are written together.

    `create_session` and `append_event` are one transaction each. Concurrent appends to one session are all kept, in some order,
    and their state deltas are merged: no session becomes stale. An event that is appended again is stored once. `delete_session`
    deletes the session in one step and then its events.
    """

    def __init__(
        self, store: AsyncDataStore | str | None = None, *, user: str | None = None, namespace: str = "adk"
    ) -> None:
        if user is None and not isinstance(store, AsyncDataStore):
            user = ADK_USER
        self._store, self._owned = async_store(store, user)
        self._namespace = self._store.use_namespace(namespace).namespace  # raises for what cannot be one

    async def close(self) -> None:
        """Close the store, if it was made from a url."""
        if self._owned:
            await self._store.close()

    async def __aenter__(self) -> StoreSessionService:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def create_session(
        self,
        *,
        app_name: str,
        user_id: str,
        state: dict[str, Any] | None = None,
        session_id: str | None = None,
    ) -> Session:
        """Create a session, or raise `AlreadyExistsError`."""
        made = Session(
            app_name=app_name,
            user_id=user_id,
            id=(session_id or "").strip() or str(uuid4()),
            last_update_time=time.time(),
        )
        deltas = _Deltas(state or {})

        async def create(transaction: AsyncTransaction) -> None:
            sessions = transaction.use_namespace(self._sessions(app_name, user_id))
            states = transaction.use_namespace(self._states(app_name))
            there, app, user = await asyncio.gather(
                sessions.get(fit_name(made.id)), states.get(_APP_STATE), states.get(_user_key(user_id))
            )
            if there is not None:
                raise AlreadyExistsError(f"Session with id {made.id} already exists.")
            app_state = {**(app or {}), **deltas.app}
            user_state = {**(user or {}), **deltas.user}
            if deltas.app:
                states.set(_APP_STATE, app_state)
            if deltas.user:
                states.set(_user_key(user_id), user_state)
            about = {"app": app_name, "user": user_id, "id": made.id, "place": uuid4().hex}
            counted = {"state": deltas.session, "updated": made.last_update_time, "events": 0}
            sessions.set(fit_name(made.id), {**about, **counted})
            made.state = _merged(deltas.session, app_state, user_state)

        await self._store.transact(create)
        return made

    async def get_session(
        self, *, app_name: str, user_id: str, session_id: str, config: GetSessionConfig | None = None
    ) -> Session | None:
        """Return a session, or None. Its state and its events are a round trip each, up to 1,000 events."""
        sessions, key = self._at(self._sessions(app_name, user_id)), fit_name(session_id.strip())
        found, app, user = await asyncio.gather(
            sessions.get(key), self._at(self._states(app_name)).get(_APP_STATE), self._user_state(app_name, user_id)
        )
        if found is None:
            return None
        value = cast("dict[str, Any]", found)
        events, complete = await self._events_of(value, config)
        if not complete and await sessions.get(key) is None:
            return None  # it was deleted meanwhile
        return _session_of(value, app, user, events)

    async def list_sessions(self, *, app_name: str, user_id: str | None = None) -> ListSessionsResponse:
        """Return the sessions of a user, or with None of all users of an app, without events; the last updated is last."""
        states = self._at(self._states(app_name))
        if user_id is not None:
            app, found, user = await asyncio.gather(
                states.get(_APP_STATE),
                self._at(self._sessions(app_name, user_id)).get_all(),
                self._user_state(app_name, user_id),
            )
            sessions = [_session_of(value, app, user, []) for value in found.values()]
        else:
            everything, names = await asyncio.gather(
                states.get_all(), self._store.list_namespaces(self._begin(app_name))
            )
            of_users = await asyncio.gather(*(self._at(name).get_all() for name in names))
            values = [cast("dict[str, Any]", value) for found in of_users for value in found.values()]
            sessions = [
                _session_of(value, everything.get(_APP_STATE), everything.get(_user_key(value["user"])), [])
                for value in values
                if value["app"] == app_name  # the beginning of a long name is also that of others
            ]
        sessions.sort(key=lambda session: (session.last_update_time, session.user_id, session.id))
        return ListSessionsResponse(sessions=sessions)

    async def delete_session(self, *, app_name: str, user_id: str, session_id: str) -> None:
        """Delete a session, and then its events. The states of its app and user stay."""
        gone = await self._at(self._sessions(app_name, user_id)).pop(fit_name(session_id.strip()), None)
        if gone is not None:
            await self._at(self._events(cast("dict[str, Any]", gone))).clear()

    async def get_user_state(self, *, app_name: str, user_id: str) -> dict[str, Any]:
        """Return the state of a user, without prefixes."""
        return await self._user_state(app_name, user_id)

    async def append_event(self, session: Session, event: Event) -> Event:
        """Append an event to a session and merge its state delta, in one transaction. Raise `SessionNotFoundError`."""
        if event.partial:
            return event
        self._apply_temp_state(session, event)
        event = self._trim_temp_delta_state(event)
        deltas = _Deltas(event.actions.state_delta if event.actions else {})
        text = json.loads(event.model_dump_json(exclude_none=True))

        async def append(transaction: AsyncTransaction) -> bool:
            sessions = transaction.use_namespace(self._sessions(session.app_name, session.user_id))
            states = transaction.use_namespace(self._states(session.app_name))
            found, app, user = await asyncio.gather(
                sessions.get(fit_name(session.id)),
                states.get(_APP_STATE) if deltas.app else _none(),
                states.get(_user_key(session.user_id)) if deltas.user else _none(),
            )
            if found is None:
                raise SessionNotFoundError(f"Session {session.id} not found.")
            events = transaction.use_namespace(self._events(found))
            same_id = cast("list[int]", await events.get(_id_key(event), []))
            for position in same_id:
                if _event_of(await events.get(_event_key(position))) == event:
                    return False
            if deltas.app:
                states.set(_APP_STATE, {**(app or {}), **deltas.app})
            if deltas.user:
                states.set(_user_key(session.user_id), {**(user or {}), **deltas.user})
            position = found["events"]
            events.set(_event_key(position), text)
            events.set(_id_key(event), [*same_id, position])
            state = {**found["state"], **deltas.session}
            changed = {**found, "state": state, "updated": event.timestamp, "events": position + 1}
            sessions.set(fit_name(session.id), changed)
            return True

        if await self._store.transact(append) or not any(each == event for each in session.events):
            self._commit_event_to_session(session, event)
            session.last_update_time = event.timestamp
        return event

    def _at(self, namespace: str) -> AsyncDataStore:
        return self._store.use_namespace(namespace)

    def _states(self, app_name: str) -> str:
        return self._named("states", app_name)

    def _sessions(self, app_name: str, user_id: str) -> str:
        return self._named("sessions", app_name, user_id)

    def _named(self, kind: str, *names: str) -> str:
        """Return a namespace of names of others. As JSON they stay apart, whatever is in them."""
        return fit_name(f"{self._namespace}:{kind}:{json.dumps(names, ensure_ascii=False)}", MAX_NAMESPACE_BYTES)

    def _events(self, session: Mapping[str, Any]) -> str:
        return f"{self._namespace}:events:{session['place']}"

    def _begin(self, app_name: str) -> str:
        """Return the beginning of the names of the namespaces with an app's sessions."""
        whole = f"{self._namespace}:sessions:{json.dumps([app_name], ensure_ascii=False)[:-1]}, "
        return whole.encode(errors="surrogatepass")[: MAX_NAMESPACE_BYTES - 65].decode(errors="ignore")

    async def _user_state(self, app_name: str, user_id: str) -> dict[str, Any]:
        found = await self._at(self._states(app_name)).get(_user_key(user_id))
        return cast("dict[str, Any]", found or {})

    async def _events_of(self, session: Mapping[str, Any], config: GetSessionConfig | None) -> tuple[list[Event], bool]:
        """Return the events of a session that are wanted, and whether none was deleted."""
        count, most = session["events"], None if config is None else config.num_recent_events
        first = 0 if most is None else max(0, count - most)
        store = self._at(self._events(session))
        keys = [_event_key(position) for position in range(first, count)]
        found: dict[str, Any] = {}
        for start in range(0, len(keys), EVENTS_READ):
            found |= await store.get_many(keys[start : start + EVENTS_READ])
        after = None if config is None else config.after_timestamp
        events = [_event_of(found[key]) for key in keys if key in found]
        return [event for event in events if after is None or event.timestamp >= after], len(found) == len(keys)


class _Deltas:
    """A change of states, by scope; temporary state is in none."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.app: dict[str, Any] = {}
        self.user: dict[str, Any] = {}
        self.session: dict[str, Any] = {}
        for key, value in _plain(state).items():
            if key.startswith(State.APP_PREFIX):
                self.app[key.removeprefix(State.APP_PREFIX)] = value
            elif key.startswith(State.USER_PREFIX):
                self.user[key.removeprefix(State.USER_PREFIX)] = value
            elif not key.startswith(State.TEMP_PREFIX):
                self.session[key] = value


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state as JSON; as with the services of ADK, what JSON cannot represent is stored as its text."""
    try:
        return cast("dict[str, Any]", to_jsonable_python(dict(state)))
    except PydanticSerializationError:
        logger.warning("a state has values that JSON cannot represent: they are stored as text")
        return cast("dict[str, Any]", to_jsonable_python(dict(state), serialize_unknown=True))


def _merged(session: Mapping[str, Any], app: Mapping[str, Any], user: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **session,
        **{State.APP_PREFIX + key: value for key, value in app.items()},
        **{State.USER_PREFIX + key: value for key, value in user.items()},
    }


def _session_of(value: Any, app: Any, user: Any, events: list[Event]) -> Session:
    return Session(
        app_name=value["app"],
        user_id=value["user"],
        id=value["id"],
        state=_merged(value["state"], app or {}, user or {}),
        events=events,
        last_update_time=value["updated"],
    )


def _user_key(user_id: str) -> str:
    return fit_name(f"user:{user_id}")


def _event_key(position: int) -> str:
    return f"{position:016d}"


def _id_key(event: Event) -> str:
    return fit_name(f"id:{event.id}")


def _event_of(value: Any) -> Event:
    return Event.model_validate_json(json.dumps(value))


async def _none() -> None:
    return None
