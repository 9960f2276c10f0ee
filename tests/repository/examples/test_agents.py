"""Each example does its job, does less the second time, and says in a sentence what is wrong with its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from redis_store import DataStore, connect
from tests.repository.examples.conftest import EXAMPLES, RunExample

OutputOf = Callable[..., dict[str, Any]]

AGENTS = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "demo")

FILES = {
    "src/parser.py": '"""Parse JSON quickly.\n\nMore."""\nclass Decoder:\n    def feed(self): ...\nasync def load(): ...\n',
    "src/empty.py": "",
    "src/broken.py": "def (:\n",
    "README.md": "\n# A parser\n\ntext\n",
}


@pytest.fixture
def store(server_url: str, user: str, open_store: Callable[..., DataStore]) -> DataStore:
    """The store of the user for whom the examples run."""
    return open_store(server_url, user)


def test_quick_start_keeps_its_data(output_of: OutputOf) -> None:
    assert output_of("quick_start", {}) == {"greeting": "Hello, world!", "visits": 1, "everybody": ["world"]}
    assert output_of("quick_start", {"name": "Ada"})["visits"] == 1
    assert output_of("quick_start", {"name": "Ada"}) == {
        "greeting": "Hello, Ada!",
        "visits": 2,
        "everybody": ["Ada", "world"],
    }


def test_cached_fetch_fetches_once(run_example: RunExample, output_of: OutputOf) -> None:
    fetched = []

    def fetch(url: str) -> dict[str, Any]:
        fetched.append(url)
        return {"status": 200, "body": f"page {len(fetched)}"}

    url = "https://example.org/a"
    assert output_of("cached_fetch", {"url": url}, fetch=fetch) == {
        "url": url,
        "answer": {"status": 200, "body": "page 1"},
        "source": "fetched",
    }
    second = run_example("cached_fetch", {"url": url}, fetch=fetch)
    assert second.check()["source"] == "cache"
    assert second.check()["answer"]["body"] == "page 1"
    assert [(one.operation, one.hit) for one in second.operations] == [("get", True)]
    assert fetched == [url]

    assert output_of("cached_fetch", {"url": url, "refresh": True}, fetch=fetch)["answer"]["body"] == "page 2"
    assert output_of("cached_fetch", {"url": f"{url}b"}, fetch=fetch)["source"] == "fetched"


@pytest.mark.parametrize("falsy", ["", 0, [], {}, False])
def test_falsy_result_is_cached(output_of: OutputOf, falsy: object) -> None:
    assert output_of("cached_fetch", {"url": "a"}, fetch=lambda url: falsy)["source"] == "fetched"
    again = output_of("cached_fetch", {"url": "a"}, fetch=lambda url: "another")
    assert (again["answer"], again["source"]) == (falsy, "cache")


def test_cached_fetch_awaits_async_tools(output_of: OutputOf) -> None:
    async def fetch(url: str) -> str:
        return url.upper()

    assert output_of("cached_fetch", {"url": "a:b"}, fetch=fetch)["answer"] == "A:B"


def test_cached_fetch_computes_without_tools(output_of: OutputOf) -> None:
    first, second = (output_of("cached_fetch", {"url": "https://example.org"}) for _ in range(2))
    assert (first["source"], second["source"]) == ("computed", "cache")
    assert first["answer"] == second["answer"]


def test_failed_fetch_is_not_cached(run_example: RunExample, output_of: OutputOf) -> None:
    def fail(url: str) -> str:
        raise OSError("no network")

    failed = run_example("cached_fetch", {"url": "a"}, fetch=fail)
    assert "no network" in str(failed.error)
    assert output_of("cached_fetch", {"url": "a"}, fetch=lambda url: "page")["source"] == "fetched"


def test_consumer_reads_data_of_producer(output_of: OutputOf) -> None:
    produced = output_of("producer", {"data": {"apples": 3, "pears": 5, "plums": 1.5, "figs": 0}})
    assert produced == {"status": "stored", "namespace": "shared", "key": "latest-analysis"}

    consumed = output_of("consumer", {})
    assert consumed["analysis"] == {
        "count": 4,
        "total": 9.5,
        "mean": 2.38,
        "median": 2.25,
        "largest": [
            {"name": "pears", "value": 5},
            {"name": "apples", "value": 3},
            {"name": "plums", "value": 1.5},
        ],
    }
    assert consumed["report"] == "4 numbers, 9.5 in total; the largest: pears (5), apples (3), plums (1.5)."
    assert consumed["written_by"] == "producer"


def test_ingestion_stores_files_and_summaries(output_of: OutputOf, store: DataStore) -> None:
    counts = output_of("ingest_repository", {"repo": "my-repo", "files": FILES})
    assert counts == {"repo": "my-repo", "files": 4, "stored": 4, "unchanged": 0, "not_text": 0, "removed": 0}
    assert store.use_namespace("files:my-repo").get_all() == FILES
    assert store.use_namespace("summary:my-repo").get_all() == {
        "src/parser.py": {
            "about": "Parse JSON quickly.",
            "classes": ["Decoder"],
            "functions": ["load"],
            "lines": 6,
        },
        "src/empty.py": {"about": "", "classes": [], "functions": [], "lines": 0},
        "src/broken.py": {"about": "def (:", "classes": [], "functions": [], "lines": 1},
        "README.md": {"about": "# A parser", "classes": [], "functions": [], "lines": 4},
    }


def test_ingestion_skips_unchanged_files(run_example: RunExample, store: DataStore) -> None:
    run_example("ingest_repository", {"repo": "r", "files": FILES}).check()
    again = run_example("ingest_repository", {"repo": "r", "files": FILES})
    assert again.check() == {"repo": "r", "files": 4, "stored": 0, "unchanged": 4, "not_text": 0, "removed": 0}
    assert "set_many" not in {one.operation for one in again.operations}

    changed = {**FILES, "src/empty.py": "x = 1\n", "new.py": '"""New."""'}
    del changed["README.md"]
    counts = run_example("ingest_repository", {"repo": "r", "files": changed}).check()
    assert counts == {"repo": "r", "files": 4, "stored": 2, "unchanged": 2, "not_text": 0, "removed": 1}
    assert store.use_namespace("files:r").get_all() == changed
    for kind in ("summary", "digest"):
        assert store.use_namespace(f"{kind}:r").list_keys() == sorted(changed)


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
def test_ingestion_reads_through_host_tools(output_of: OutputOf, store: DataStore, is_async: bool) -> None:
    texts: dict[str, str | None] = {f"f{number:03}.py": f'"""File {number}."""' for number in range(250)}
    texts["logo.png"] = None

    def list_files(repo: str) -> list[str]:
        assert repo == "r"
        return list(texts)

    def read_file(repo: str, path: str) -> str | None:
        return texts[path]

    async def read_file_async(repo: str, path: str) -> str | None:
        return texts[path]

    tools = {"list_files": list_files, "read_file": read_file_async if is_async else read_file}
    counts = output_of("ingest_repository", {"repo": "r"}, **tools)
    assert counts == {"repo": "r", "files": 250, "stored": 250, "unchanged": 0, "not_text": 1, "removed": 0}
    assert store.use_namespace("summary:r").get("f249.py")["about"] == "File 249."
    assert len(store.use_namespace("files:r")) == 250


def test_ingestion_works_in_batches(run_example: RunExample) -> None:
    files = {f"f{number:03}.txt": str(number) for number in range(250)}
    operations = run_example("ingest_repository", {"repo": "r", "files": files}).operations
    batches = [one.count for one in operations if one.operation == "set_many" and one.namespace == "files:r"]
    assert batches == [100, 100, 50]
    assert len(operations) < 20


def test_empty_listing_removes_nothing(output_of: OutputOf, store: DataStore) -> None:
    output_of("ingest_repository", {"repo": "r", "files": FILES})
    answer = output_of("ingest_repository", {"repo": "r"}, list_files=lambda repo: [], read_file=lambda *a: "")
    assert "no files" in answer["error"]
    assert len(store.use_namespace("files:r")) == 4


def test_search_covers_all_repositories(output_of: OutputOf) -> None:
    output_of("ingest_repository", {"repo": "one", "files": FILES})
    output_of("ingest_repository", {"repo": "two", "files": {"json_tools.py": "def Decoder(): ...\n", "x.py": ""}})

    found = output_of("search", {"query": "JSON decoder"})
    assert found["repositories"] == 2
    assert found["found"] == 2
    assert [(hit["repo"], hit["file"]) for hit in found["results"]] == [
        ("one", "src/parser.py"),
        ("two", "json_tools.py"),
    ]
    assert found["results"][0]["summary"]["classes"] == ["Decoder"]

    limited = output_of("search", {"query": "py", "limit": 1})
    assert (limited["found"], len(limited["results"])) == (5, 1)
    assert output_of("search", {"query": "decoder nowhere"})["results"] == []
    assert output_of("search", {"query": "c++ (*"})["results"] == []


def test_search_uses_summaries_of_other_agents(output_of: OutputOf, store: DataStore) -> None:
    store.use_namespace("summary:by-hand").set("a.py", "Parses JSON")
    assert output_of("search", {"query": "json"})["results"][0]["summary"] == "Parses JSON"


def test_search_reports_missing_ingestion(run_example: RunExample) -> None:
    result = run_example("search", {"query": "json"})
    assert result.check() == {"query": "json", "repositories": 0, "found": 0, "results": []}
    assert "ingest_repository.py" in result.stdout


def test_users_are_isolated(output_of: OutputOf, server_url: str, user: str) -> None:
    output_of("producer", {"data": {"a": 1}})
    with connect(server_url, user=f"{user}-other") as other:
        assert other.list_namespaces() == []


@pytest.mark.parametrize(
    ("agent", "input_dict", "words"),
    [
        ("quick_start", {"name": ""}, "name"),
        ("quick_start", {"name": ["Ada"]}, "name"),
        ("cached_fetch", {}, "url"),
        ("cached_fetch", {"url": ""}, "url"),
        ("cached_fetch", {"url": 7}, "url"),
        ("producer", {}, "data"),
        ("producer", {"data": {}}, "data"),
        ("producer", {"data": [1, 2]}, "data"),
        ("producer", {"data": {"a": "1"}}, "data"),
        ("producer", {"data": {"a": True}}, "data"),
        ("consumer", {}, "producer.py"),
        ("ingest_repository", {}, "repo"),
        ("ingest_repository", {"repo": ""}, "repo"),
        ("ingest_repository", {"repo": {"name": "r"}}, "repo"),
        ("ingest_repository", {"repo": "r"}, "list_files"),
        ("ingest_repository", {"repo": "r", "files": {}}, "files"),
        ("ingest_repository", {"repo": "r", "files": ["a.py"]}, "files"),
        ("ingest_repository", {"repo": "r", "files": {"a.py": 1}}, "files"),
        ("ingest_repository", {"repo": "r", "files": {"": "text"}}, "files"),
        ("search", {}, "query"),
        ("search", {"query": " "}, "query"),
        ("search", {"query": 1}, "query"),
        ("search", {"query": "a", "limit": 0}, "limit"),
        ("search", {"query": "a", "limit": "3"}, "limit"),
    ],
)
def test_bad_input_returns_an_error_message(
    run_example: RunExample, agent: str, input_dict: dict[str, Any], words: str
) -> None:
    result = run_example(agent, input_dict)
    output = result.check()
    assert list(output) == ["error"]
    assert words in output["error"]
    assert output["error"].endswith(".")
    assert not [one for one in result.operations if one.operation.startswith("set")]


def test_every_agent_is_documented() -> None:
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert AGENTS
    for agent in AGENTS:
        assert f"sandbox run examples/{agent}.py " in readme
