"""The pages of docs/integrations: their examples run."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from redis_store import AsyncDataStore, DataStore
from tests.repository.test_docs import ROOT, Reader, blocks_of, empty_database


def read_page(name: str, server_url: str) -> None:
    """Run the Python blocks of a page in order, and compare what they print with what the page says; see `test_docs.py`."""
    page = ROOT / "docs" / "integrations" / name
    with (
        empty_database(server_url) as url,
        tempfile.TemporaryDirectory(prefix="docs-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("REDIS_URL", url)
        patch.chdir(folder)
        reader = Reader(Path(folder), {**os.environ})
        for block in blocks_of(page):
            reader.read(block)
        open_ones = [store for store in reader.names.values() if isinstance(store, (DataStore, AsyncDataStore))]
        for store in open_ones:
            if isinstance(store, DataStore):
                store.close()
            else:
                raise AssertionError(f"{name} leaves an AsyncDataStore open")
