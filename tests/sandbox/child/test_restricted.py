"""Handles that an agent narrows for its own helpers: the same methods as on the host, with the same errors."""

from __future__ import annotations

from typing import Any

from redis_store import AccessDenied, DataStore


def test_restricted_handles_refuse_alike_inside_and_outside(run: Any, store: DataStore) -> None:
    store.use_namespace("shared").set("k", 1)
    result = run(
        """
        from redis_store.errors import AccessDenied
        def run():
            handle = data_store.restricted(read=["shared", "files:*"], write=["files:a"])
            shared, files = handle.use_namespace("shared"), handle.use_namespace("files:a")
            files.set("k", 2)
            said = []
            for call in (
                lambda: shared.set("k", 2),
                lambda: handle.get("k"),
                lambda: list(handle.iter_items()),
                lambda: data_store.read_only().clear(),
                lambda: shared.read_only().restricted(write=["*"]).set_many({"k": 1}),
            ):
                try:
                    call()
                except AccessDenied as error:
                    said.append([str(error), error.facts])
            return {"said": said, "names": handle.list_namespaces(), "read": [shared.get("k"), files.get("k")]}
        """
    )
    output = result.check()
    assert output["names"] == ["files:a", "shared"]
    assert output["read"] == [1, 2]
    handle = store.restricted(read=["shared", "files:*"], write=["files:a"])
    expected = []
    for call in (
        lambda: handle.use_namespace("shared").set("k", 2),
        lambda: handle.get("k"),
        lambda: list(handle.iter_items()),
        lambda: store.read_only().clear(),
        lambda: handle.use_namespace("shared").read_only().restricted(write=["*"]).set_many({"k": 1}),
    ):
        try:
            call()
        except AccessDenied as error:
            expected.append([str(error), error.facts])
    assert output["said"] == expected
    assert len(expected) == 5
