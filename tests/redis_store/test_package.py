"""The package itself: its public names, and what importing it does not import."""

from __future__ import annotations

import subprocess
import sys

import pytest

import redis_store


def test_every_public_name_can_be_imported_and_is_listed() -> None:
    assert set(redis_store.__all__) <= set(dir(redis_store))
    for name in redis_store.__all__:
        assert getattr(redis_store, name) is not None or name == "Json"
    with pytest.raises(AttributeError, match="'redis_store' has no attribute 'conect'"):
        redis_store.conect  # noqa: B018


def test_importing_the_package_or_asking_for_help_imports_no_client() -> None:
    slow = "{'redis', 'asyncio', 'redis_store._connect', 'redis_store.aio'} & set(sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", f"import sys, redis_store, redis_store.cli; print({slow})"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "set()\n"
