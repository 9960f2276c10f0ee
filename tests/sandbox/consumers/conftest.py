"""A consumer on the test's server, its events, and the namespace in which its agents record their input."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import pytest

import sandbox
from redis_store import DataStore

OnChange = Callable[..., sandbox.Consumer]


@pytest.fixture
def events() -> list[sandbox.ConsumerEvent]:
    return []


@pytest.fixture
def on_change(server_url: str, user: str, events: list[sandbox.ConsumerEvent]) -> OnChange:
    """`sandbox.on_change` with the test's server and user, as the consumer "c" with short back-offs."""

    def make(source: Any, **options: Any) -> sandbox.Consumer:
        given = {
            "user": user,
            "url": server_url,
            "consumer": "c",
            "first_wait": 0.01,
            "configure_server": True,
            "on_event": events.append,
        }
        return sandbox.on_change(textwrap.dedent(source) if isinstance(source, str) else source, **{**given, **options})

    return make


@pytest.fixture
def seen(store: DataStore) -> DataStore:
    """The namespace in which the agents of these tests record their input."""
    return store.use_namespace("seen")


def kinds(events: list[sandbox.ConsumerEvent]) -> list[str]:
    return [event.kind for event in events]
