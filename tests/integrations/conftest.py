"""Stores for the suites of other frameworks. `make test-integrations` installs the frameworks and runs them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from redis_store import DataStore, connect


@pytest.fixture
def user() -> str:
    return f"user-{uuid.uuid4().hex}"


@pytest.fixture
def store(server_url: str, user: str) -> Iterator[DataStore]:
    with connect(server_url, user=user) as data_store:
        yield data_store
