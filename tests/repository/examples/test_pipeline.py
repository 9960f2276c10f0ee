"""Three agents that hand over by changes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

import sandbox
from redis_store import DataStore
from tests.repository.examples.conftest import EXAMPLES
from tests.support.servers import wait_until

WATCHED = {"ingest": "pipeline:inbox", "summarise": "pipeline:files", "index": "pipeline:summaries"}


@pytest.fixture
def store(server_url: str, user: str, open_store: Callable[..., DataStore]) -> Iterator[DataStore]:
    """The user's store, with the three at work."""
    with ExitStack() as stack:
        for agent, namespace in WATCHED.items():
            path = EXAMPLES / "pipeline" / f"{agent}.py"
            options = {"namespace": namespace, "concurrency": 1, "configure_server": True}
            stack.enter_context(sandbox.on_change(path, user=user, url=server_url, **options))
        yield open_store(server_url, user)


def test_summaries_and_index_follow_file_changes(store: DataStore) -> None:
    inbox, index = store.use_namespace("pipeline:inbox"), store.use_namespace("pipeline:index")
    inbox.set_many({"a.py": '"""Say hello."""\ndef hello(): ...\n', "b.py": '"""Say more."""\n', "c.txt": "def (:\n"})
    wait_until(lambda: index.get("say") == ["a.py", "b.py"], "both are in the index")
    assert index["hello"] == ["a.py"]
    assert store.use_namespace("pipeline:summaries")["a.py"] == {"about": "Say hello.", "names": ["hello"]}

    inbox.set("a.py", "def goodbye(): ...\n")
    wait_until(lambda: index.get("goodbye") == ["a.py"] and index["say"] == ["b.py"], "the index has followed")
    wait_until(lambda: "hello" not in index, "the old word is gone")

    inbox.delete("a.py")
    wait_until(lambda: "goodbye" not in index, "what is gone is in the index no more")
    assert store.use_namespace("pipeline:files").list_keys() == ["b.py", "c.txt"]
    for agent in WATCHED:
        assert len(store.use_namespace(f"dead-letter:{agent}")) == 0
